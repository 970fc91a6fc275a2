//! The network namespaces of this node's pods, found where container runtimes keep them.
//!
//! A pod whose packets pass no interface of ours is served at its sockets. To know which pods these are, their
//! namespaces are compared with those that the pods' interfaces lead to: rtnetlink gives each a number
//! (`RTM_GETNSID`), the one that an interface names as the place of its other end.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use rtnetlink::{Handle, MulticastGroup};
use tokio::{sync::watch, task::spawn_blocking, time::Instant};

use crate::{addresses, interfaces::Addresses, netlink::Watch};

/// All is looked at anew after so long even without a notice.
const AGAIN: Duration = Duration::from_secs(10);
/// Nothing tells of an address inside a pod, so a pod without one is looked at again after so long, then after twice
/// as long, and so on.
const SOON: Duration = Duration::from_millis(50);

/// A pod's network namespace.
#[derive(Clone, Debug)]
pub struct PodNamespace {
    /// Its inode number, which no other one has while this one is open.
    pub inode: u64,
    /// Name of the file that keeps it.
    pub name: String,
    /// What the node's own namespace calls it; `None` where no interface leads there.
    pub id: Option<i32>,
    /// The addresses that its packets to far away have.
    pub addresses: Addresses,
    file: Arc<File>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// In the order of their inode numbers.
    pub pods: Vec<PodNamespace>,
    /// Why they cannot be looked at.
    pub trouble: Option<String>,
}

/// A pod, and what of it is served at its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPod {
    /// Its network namespace.
    pub namespace: PodNamespace,
    /// What is served there.
    pub served: Served,
}

/// What of a pod is served at its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing: its interface has programs, or it has no address yet.
    Nothing,
    /// TCP; the rest at its interface.
    Tcp,
    /// TCP and UDP: no interface with programs leads to it.
    Everything,
}

impl PodNamespace {
    /// Runs a closure on a thread of its own inside.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        inside(&self.file, f)
    }

    #[cfg(test)]
    pub(crate) fn known(inode: u64, name: &str, id: Option<i32>, addresses: Addresses) -> Self {
        let file = Arc::new(File::open("/dev/null").unwrap());
        Self {
            inode,
            name: name.to_owned(),
            id,
            addresses,
            file,
        }
    }
}

impl PartialEq for PodNamespace {
    fn eq(&self, other: &Self) -> bool {
        (self.inode, &self.name, self.id, self.addresses)
            == (other.inode, &other.name, other.id, other.addresses)
    }
}

impl Eq for PodNamespace {}

/// Follows the namespaces that are kept in some folders, beside the one of the thread that runs this first, until
/// nobody listens.
///
/// # Errors
/// Where netlink cannot be used.
pub async fn follow(folders: Vec<PathBuf>, found: watch::Sender<Namespaces>) -> anyhow::Result<()> {
    const FAILED: &str = "the pods' network namespaces cannot be followed";
    const NEWS: [MulticastGroup; 1] = [MulticastGroup::Link];
    let own = own().context(FAILED)?;
    let mut watch = Watch::open(&NEWS).context(FAILED)?;
    let mut known = Namespaces::default();
    let mut whole = Instant::now();
    let mut wait = SOON;
    loop {
        let before = if whole.elapsed() < AGAIN {
            known.pods.clone()
        } else {
            whole = Instant::now();
            Vec::new()
        };
        let folders = folders.clone();
        let mut now = spawn_blocking(move || look(&folders, own, &before)).await?;
        for pod in &mut now.pods {
            pod.id = id(&mut watch.handle, &pod.file).await;
        }
        let is_settled = !now.pods.iter().any(is_bare);
        known = now.clone();
        found.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        let pause = if is_settled { AGAIN } else { wait };
        tokio::select! {
            news = watch.news(pause) => {
                wait = if news.context(FAILED)? { SOON } else { (wait * 2).min(AGAIN) };
            }
            () = found.closed() => return Ok(()),
        }
    }
}

/// The namespaces that are kept in some folders, beside the calling thread's own, without what this one calls them.
///
/// # Errors
/// Where the own one is not known.
pub fn find(folders: &[PathBuf]) -> io::Result<Namespaces> {
    Ok(look(folders, own()?, &[]))
}

/// Runs a closure on a thread of its own in a network namespace.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` for a file that is none.
fn inside<T: Send>(namespace: &File, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The inode number of the calling thread's namespace.
fn own() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Every namespace in the folders but the one with the inode number `own`. What is known of one before that has an
/// address is taken over.
fn look(folders: &[PathBuf], own: u64, before: &[PodNamespace]) -> Namespaces {
    let mut pods: BTreeMap<u64, PodNamespace> = BTreeMap::new();
    let mut trouble = None;
    for path in folders.iter().flat_map(|folder| files(folder)) {
        let Some((inode, file)) = open(&path) else {
            continue;
        };
        if inode == own || pods.contains_key(&inode) {
            continue;
        }
        let mut known = before.iter().filter(|pod| pod.inode == inode);
        let pod = match known.next() {
            Some(pod) if !is_bare(pod) => Ok(pod.clone()),
            _ => inside(&file, of_this_thread).map(|addresses| PodNamespace {
                inode,
                name: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                id: None,
                addresses,
                file: Arc::new(file),
            }),
        };
        match pod {
            Ok(pod) => drop(pods.insert(inode, pod)),
            Err(error) => {
                let path = path.display();
                trouble = Some(format!("{path} cannot be entered: {error}"));
            }
        }
    }
    Namespaces {
        pods: pods.into_values().collect(),
        trouble,
    }
}

/// The files in a folder; none where there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// An open namespace and its inode number. A file that keeps none any more, as after a reboot, is no namespace.
fn open(path: &Path) -> Option<(u64, File)> {
    let file = File::open(path).ok()?;
    let is_namespace = fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
    let inode = file.metadata().ok()?.ino();
    is_namespace.then_some((inode, file))
}

/// No address is known of it.
fn is_bare(pod: &PodNamespace) -> bool {
    pod.addresses == Addresses::default()
}

/// What the namespace of the calling thread has: where no default route chooses an address, its first global one.
fn of_this_thread() -> Addresses {
    let mut found = Addresses::default();
    let first = getifaddrs().into_iter().flatten().filter(|interface| {
        let not = InterfaceFlags::IFF_LOOPBACK;
        interface.flags.contains(InterfaceFlags::IFF_UP) && !interface.flags.intersects(not)
    });
    let first = first.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or_else(v6)
    });
    for address in addresses::preferred().into_iter().chain(first) {
        match address {
            IpAddr::V4(v4) if !v4.is_link_local() => found.v4 = found.v4.or(Some(v4)),
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => found.v6 = found.v6.or(Some(v6)),
            _ => {}
        }
    }
    found
}

/// What the node's own namespace calls another one.
async fn id(handle: &mut Handle, namespace: &File) -> Option<i32> {
    let mut request = NsidMessage::default();
    request
        .attributes
        .push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(request));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(message).ok()?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = answer.payload {
            return answer
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                    _ => None,
                });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sched::unshare;

    use super::*;

    #[test]
    #[ignore = "needs root: cargo xtask test"]
    fn namespaces_are_found_and_entered_and_other_files_and_the_own_one_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let other = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let other = other.join().unwrap();
        let there = |name: &str, fd: i32| {
            let at = format!("/proc/{}/fd/{fd}", std::process::id());
            symlink(at, folder.path().join(name)).unwrap();
        };
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        there("cni-1", other.as_raw_fd());
        there("cni-2", other.as_raw_fd());
        there("default", own.as_raw_fd());
        fs::write(folder.path().join("stale"), "").unwrap();

        let folders = [folder.path().to_owned(), "/no/such/folder".into()];
        let found = find(&folders).unwrap();
        assert_eq!(found.trouble, None);
        let [pod] = &found.pods[..] else {
            panic!("{found:?}")
        };
        assert_eq!(pod.name, "cni-1");
        assert_eq!(pod.inode, other.metadata().unwrap().ino());
        assert!(is_bare(pod));
        assert_eq!(pod.run(super::own).unwrap().unwrap(), pod.inode);
    }
}
