//! Follows one kind: lists it, watches it, and begins anew when the connection or the server's memory ends.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::{Api, runtime::watcher};
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Timing,
    contact::Contact,
    resource::{Watched, events},
};
use crate::model::{Event, Kind};

/// Why a way of listing is given up.
enum End {
    /// Nobody listens.
    Closed,
    /// The server does not stream lists.
    NotStreamed,
    /// The server does not know the kind, and nobody needs it.
    Unknown,
}

/// Follows a kind until nobody listens.
pub(super) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    contact: &Contact,
    sender: &mpsc::Sender<Event>,
) where
    K: Watched + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streamed = watcher::watcher(api.clone(), config.clone().streaming_lists());
    let deadline = Some(Instant::now() + contact.timing().streamed_list);
    if let End::NotStreamed = forward::<K>(pin!(streamed), deadline, contact, sender).await {
        tracing::info!(kind = %K::KIND, "the API server does not stream lists; listing in pages");
        let paged = watcher::watcher(api, config);
        forward::<K>(pin!(paged), None, contact, sender).await;
    }
}

/// Forwards a watch. With a deadline, the list is a streamed one that has to be complete by then.
async fn forward<K: Watched>(
    mut stream: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin,
    mut deadline: Option<Instant>,
    contact: &Contact,
    sender: &mpsc::Sender<Event>,
) -> End {
    let streamed = deadline.is_some();
    let mut failures = 0;
    let mut said = false;
    loop {
        let next = match deadline {
            Some(deadline) => match timeout_at(deadline, stream.next()).await {
                Ok(next) => next,
                Err(_) => return End::NotStreamed,
            },
            None => stream.next().await,
        };
        match next {
            None => return End::Closed,
            Some(Ok(event)) => {
                failures = 0;
                said = false;
                let listed = match event {
                    watcher::Event::Init => Some(false),
                    watcher::Event::InitDone => Some(true),
                    _ => None,
                };
                for event in events(event) {
                    if sender.send(event).await.is_err() {
                        return End::Closed;
                    }
                }
                if let Some(listed) = listed {
                    contact.set_listed(K::KIND, listed);
                }
                if listed == Some(true) {
                    deadline = None;
                }
            }
            Some(Err(error)) => {
                if streamed && is_refusal(&error) {
                    return End::NotStreamed;
                }
                if !Kind::NEEDED.contains(&K::KIND) && is_unknown(&error) {
                    tracing::info!(kind = %K::KIND, "the API server does not know the kind");
                    return End::Unknown;
                }
                said |= report::<K>(&error, failures, said);
                sleep(wait(contact.timing(), failures)).await;
                failures += 1;
                // A server that is away says nothing about what it can do.
                deadline = deadline.map(|_| Instant::now() + contact.timing().streamed_list);
            }
        }
    }
}

/// The server knows the parameter and does not take it (feature `WatchList` off), or knows no such watch.
fn is_refusal(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 422)
        }
        watcher::Error::WatchError(status) => matches!(status.code, 400 | 422),
        _ => false,
    }
}

/// The server has no such resource.
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::InitialListFailed(kube::Error::Api(status))
            if status.code == 404
    )
}

/// Says it once aloud, and whether it did; a server that is away for long fills no log. That a watch ends says nothing:
/// servers end every watch after some minutes, and not always with a last word.
fn report<K: Watched>(error: &watcher::Error, failures: u32, said: bool) -> bool {
    let forbidden = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::InitialListFailed(kube::Error::Api(status)) => {
            matches!(status.code, 401 | 403)
        }
        _ => false,
    };
    let kind = K::KIND;
    if matches!(error, watcher::Error::WatchFailed(_)) {
        tracing::debug!(%kind, %error, "a watch ended; it begins anew");
        return false;
    }
    if forbidden && !said {
        tracing::error!(%kind, %error, "not allowed to list and watch: bind the ClusterRole that comes with signpost");
    } else if !said {
        tracing::warn!(%kind, %error, "lost the API server; what is known stays");
    } else {
        tracing::debug!(%kind, %error, failures, "the API server is still away");
    }
    true
}

/// Half of it is chance: nodes that lost a server at the same time do not come back at the same time.
fn wait(timing: &Timing, failures: u32) -> Duration {
    let longest = timing
        .first_wait
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(timing.longest_wait);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::{super::TIMING, *};

    #[test]
    fn waits_grow_up_to_the_longest() {
        let Timing {
            first_wait,
            longest_wait,
            ..
        } = TIMING;
        assert!(wait(&TIMING, 0) <= first_wait);
        assert!(wait(&TIMING, 1) >= first_wait);
        for failures in [10, 100, u32::MAX] {
            let wait = wait(&TIMING, failures);
            assert!(wait <= longest_wait && wait >= longest_wait / 2);
        }
    }
}
