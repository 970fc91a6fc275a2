//! A network namespace, and for pods a mount and a host name of its own as well.
//!
//! A namespace belongs to a thread. It is kept alive here by open files; closures run on threads of their own that
//! enter it, and programs are started by one thread that lives in it. When that thread ends, the kernel ends the
//! programs: nothing outlives a laboratory that crashed.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    path::{Path, PathBuf},
    process::Child,
    sync::mpsc,
    thread,
};

use anyhow::Context as _;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// A file of the host that a pod sees another file in the place of.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The file whose content the pod sees.
    pub content: PathBuf,
    /// Where it sees it, such as `/etc/resolv.conf`.
    pub at: PathBuf,
}

/// What a namespace is made of.
#[derive(Debug, Default)]
pub struct Spec<'a> {
    /// Share this one's network instead of making a new one.
    pub network_of: Option<&'a Namespace>,
    /// The host name; none shares the host's, and the host's mounts too.
    pub host_name: Option<String>,
    /// Files that look different inside.
    pub overlays: Vec<Overlay>,
}

/// A namespace. It goes when the last of its programs and its handle are gone.
#[derive(Debug)]
pub struct Namespace {
    net: File,
    own: Option<(File, File)>,
    spawner: mpsc::Sender<Order>,
}

struct Order {
    command: std::process::Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

impl Namespace {
    /// Makes a namespace.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks namespaces.
    pub fn new(spec: Spec<'_>) -> anyhow::Result<Self> {
        let (spawner, orders) = mpsc::channel::<Order>();
        let (ready, made) = mpsc::channel();
        let network = match spec.network_of {
            Some(other) => Some(other.net.try_clone()?),
            None => None,
        };
        let (host_name, overlays) = (spec.host_name, spec.overlays);
        thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(move || {
                let handles = make(network.as_ref(), host_name.as_deref(), &overlays);
                let failed = handles.is_err();
                if ready.send(handles).is_err() || failed {
                    return;
                }
                for mut order in orders {
                    let _ = order.reply.send(order.command.spawn());
                }
            })?;
        let (net, own) = made.recv()??;
        Ok(Self { net, own, spawner })
    }

    /// Runs a closure on a thread inside.
    ///
    /// # Errors
    /// Where the thread cannot enter.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(f())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside, for good.
    ///
    /// # Errors
    /// Without root.
    pub fn enter(&self) -> anyhow::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
        if let Some((mounts, names)) = &self.own {
            // A thread that shares its working directory with others may not change its mounts.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts, CloneFlags::CLONE_NEWNS).context("cannot enter a mount namespace")?;
            setns(names, CloneFlags::CLONE_NEWUTS)?;
        }
        Ok(())
    }

    /// Starts a program inside, by the thread that lives there.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub fn spawn(&self, command: std::process::Command) -> io::Result<Child> {
        let (reply, child) = mpsc::channel();
        let gone = || io::Error::other("the namespace's thread is gone");
        self.spawner
            .send(Order { command, reply })
            .map_err(|_| gone())?;
        child.recv().map_err(|_| gone())?
    }

    /// Runs netlink requests inside.
    ///
    /// # Errors
    /// Those of the requests.
    pub fn netlink<T: Send>(
        &self,
        requests: impl AsyncFnOnce(rtnetlink::Handle) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let connection = tokio::spawn(connection);
                let result = requests(handle).await;
                connection.abort();
                result
            })
        })?
    }

    /// Sets a value below `/proc/sys/net`.
    ///
    /// # Errors
    /// Where there is no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.run(|| {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).with_context(|| path.display().to_string())
        })?
    }

    /// The open network namespace, for netlink requests that move an interface into it.
    pub fn fd(&self) -> RawFd {
        self.net.as_raw_fd()
    }

    /// What `nsenter` must be called with to come in.
    pub fn nsenter(&self) -> String {
        let pid = std::process::id();
        let path = |file: &File| format!("/proc/{pid}/fd/{}", file.as_fd().as_raw_fd());
        match &self.own {
            Some((mounts, names)) => format!(
                "nsenter --net={} --mount={} --uts={}",
                path(&self.net),
                path(mounts),
                path(names)
            ),
            None => format!("nsenter --net={}", path(&self.net)),
        }
    }
}

type Handles = (File, Option<(File, File)>);

/// Makes the namespace out of the calling thread's.
fn make(
    network: Option<&File>,
    host_name: Option<&str>,
    overlays: &[Overlay],
) -> anyhow::Result<Handles> {
    match network {
        Some(network) => setns(network, CloneFlags::CLONE_NEWNET)?,
        None => unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: root is needed")?,
    }
    let open = |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}"));
    let net = open("net")?;
    let Some(host_name) = host_name else {
        return Ok((net, None));
    };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    nix::unistd::sethostname(host_name)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    for Overlay { content, at } in overlays {
        mount(Some(content), at, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot mount {} at {}", content.display(), at.display()))?;
    }
    Ok((net, Some((open("mnt")?, open("uts")?))))
}
