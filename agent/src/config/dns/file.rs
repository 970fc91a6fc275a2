//! The file: how it is read, and followed while it changes.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_saphyr::with_deserializer_from_str_with_options;
use tokio::sync::watch;

use super::{DnsConfig, DnsConfigError};

/// How often the file is looked at. Polled: the kubelet exchanges a ConfigMap by a symbolic link of a folder above, which
/// no watch of the file shows, and it may be a bind mount, which no notification crosses.
const LOOK: Duration = Duration::from_secs(1);

/// The file that an instance follows, and how that goes.
#[derive(Clone, Debug)]
pub struct DnsConfigFile {
    path: Option<PathBuf>,
    read: Option<String>,
    counts: Arc<Counts>,
}

/// How often the file was taken over and refused.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken over after the start.
    pub reloads: AtomicU64,
    /// Refused: the one before stays.
    pub failures: AtomicU64,
}

impl Counts {
    /// A content of the file counts from now on.
    pub fn taken_over(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        tracing::info!("another configuration of DNS counts");
    }
}

impl DnsConfigFile {
    /// Reads a file for the first time. Without one, and until it is there, all is default.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn open(path: Option<&Path>) -> Result<(Self, DnsConfig), DnsConfigError> {
        let mut this = Self {
            path: path.map(Path::to_owned),
            read: None,
            counts: Arc::default(),
        };
        let Some(path) = path else {
            return Ok((this, DnsConfig::default()));
        };
        if !path.exists() {
            tracing::warn!(file = %path.display(), "there is no configuration of DNS yet; all is default");
            return Ok((this, DnsConfig::default()));
        }
        let text = read(path)?;
        let config = parse(path, &text)?;
        this.read = Some(text);
        Ok((this, config))
    }

    /// How often it was taken over and refused.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Hands on every new content that can be read; whoever takes it over says so to [`Counts`]. One that cannot is logged and counted, once, and changes nothing.
    pub async fn follow(mut self, configs: watch::Sender<Arc<DnsConfig>>) {
        let Some(path) = self.path.clone() else {
            return std::future::pending().await;
        };
        let mut unreadable = self.read.is_none();
        loop {
            tokio::time::sleep(LOOK).await;
            let read = read(&path);
            let parsed = match &read {
                Ok(text) if Some(text) == self.read.as_ref() => {
                    unreadable = false;
                    continue;
                }
                Ok(text) => {
                    self.read = Some(text.clone());
                    parse(&path, text)
                }
                Err(_) if unreadable => continue,
                Err(error) => Err(error.clone()),
            };
            unreadable = read.is_err();
            match parsed {
                Ok(config) => {
                    configs.send_replace(Arc::new(config));
                }
                Err(error) => {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("the configuration of DNS stays as it was: {error}");
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<String, DnsConfigError> {
    std::fs::read_to_string(path).map_err(|error| DnsConfigError::Unreadable {
        file: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Reads the text of a file.
///
/// # Errors
/// Where it cannot be used.
pub fn parse(path: &Path, text: &str) -> Result<DnsConfig, DnsConfigError> {
    // Nothing but comments is a file that says nothing.
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if !text
        .lines()
        .any(|line| says(line) && line.trim_end() != "---")
    {
        return Ok(DnsConfig::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let mut key = String::new();
    let config: DnsConfig =
        with_deserializer_from_str_with_options(text, options, |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                key = error.path().to_string();
                error.into_inner()
            })
        })
        .map_err(|error| {
            let error = error.without_snippet();
            let location = error.location();
            DnsConfigError::Malformed {
                file: path.to_owned(),
                line: location.map_or(1, |location| location.line()),
                column: location.map_or(1, |location| location.column()),
                key: key.clone(),
                reason: error.to_string(),
            }
        })?;
    config
        .check()
        .map_err(|(key, reason)| DnsConfigError::Contradiction {
            file: path.to_owned(),
            key,
            reason,
        })?;
    Ok(config)
}
