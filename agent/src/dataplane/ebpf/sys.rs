//! The `bpf(2)` calls that aya 0.14 lacks: batches of map elements, links by interface index, what a link is attached
//! to. Nothing here knows what the maps mean.

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bytemuck::{AnyBitPattern, NoUninit};

mod cgroup;
mod ended;
mod trial;
mod unchanged;

pub use cgroup::{SocketCall, attach_to_cgroup, linked_cgroup, namespace_cookie, socket_cookie};
pub use ended::wait_for_programs;
pub use trial::{Instruction, ProgramKind, load};
pub use unchanged::delete_if;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// `BPF_F_RDONLY` of `BPF_OBJ_GET`.
const READ_ONLY: u32 = 1 << 3;
/// `BPF_F_BEFORE` and `BPF_F_AFTER` of `BPF_LINK_CREATE`; without a relative they mean first and last.
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const LINK_TYPE_TCX: u32 = 11;

/// Elements of one batch call: enough to make the call's cost vanish, and more than a hash bucket ever holds.
pub const BATCH: usize = 4096;

/// The kernel's `ENOTSUPP`, which `libc` does not name.
const ENOTSUPP: i32 = 524;

/// Kind of a map, as in the kernel's `enum bpf_map_type`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash = 5,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_RINGBUF` (Linux 5.8). No keys and values; the size is in bytes.
    RingBuf = 27,
}

/// What the kernel says about a map; also what one is created from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// As in [`MapKind`], or a kind that is not there.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most elements.
    pub size: u32,
    /// `map_flags`.
    pub flags: u32,
}

/// Which side of an interface a TCX link is on: the kernel's `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Packets that come in; the program runs before all others there.
    Ingress = 46,
    /// Packets that go out; the program runs after all others there.
    Egress = 47,
}

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The program.
    pub program: u32,
    /// The interface of a TCX link; 0 where the interface is gone, or for a link of another kind.
    pub ifindex: u32,
}

/// An element of a batch that could not be written.
#[derive(Debug)]
pub struct Failed {
    /// Its place among the elements.
    pub index: usize,
    /// Why: `E2BIG` for a full map.
    pub error: io::Error,
}

/// Creates a map.
///
/// # Errors
/// Those of `BPF_MAP_CREATE`.
pub fn create_map(name: &str, info: MapInfo) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        kind: u32,
        key: u32,
        value: u32,
        size: u32,
        flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        name: [u8; 16],
    }
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    let attr = Attr {
        kind: info.kind,
        key: info.key,
        value: info.value,
        size: info.size,
        flags: info.flags,
        inner_map_fd: 0,
        numa_node: 0,
        name: bytes,
    };
    call_for_fd(MAP_CREATE, &attr)
}

/// Pins a map or a link.
///
/// # Errors
/// Those of `BPF_OBJ_PIN`; `EEXIST` where the path exists.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let attr = ObjectAttr {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    call(OBJ_PIN, &attr).map(drop)
}

/// Opens a pinned map or link, a map for reading and writing.
///
/// # Errors
/// Those of `BPF_OBJ_GET`; `ENOENT` where nothing is pinned.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    call_for_fd(
        OBJ_GET,
        &ObjectAttr {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        },
    )
}

/// Opens a pinned map so that it cannot be changed through it.
///
/// # Errors
/// As [`open_pinned`].
pub fn open_pinned_for_reading(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    call_for_fd(
        OBJ_GET,
        &ObjectAttr {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: READ_ONLY,
        },
    )
}

/// What a map is.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`, such as `EINVAL` for what is not a BPF object.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit, AnyBitPattern)]
    struct Info {
        kind: u32,
        id: u32,
        key: u32,
        value: u32,
        size: u32,
        flags: u32,
    }
    let Info {
        kind,
        id: _,
        key,
        value,
        size,
        flags,
    } = info(map)?;
    Ok(MapInfo {
        kind,
        key,
        value,
        size,
        flags,
    })
}

/// What a link is.
///
/// # Errors
/// As [`map_info`].
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit, AnyBitPattern)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        ifindex: u32,
        attach_type: u32,
    }
    let Info {
        kind,
        program,
        ifindex,
        ..
    } = info(link)?;
    let ifindex = if kind == LINK_TYPE_TCX { ifindex } else { 0 };
    Ok(LinkInfo { program, ifindex })
}

/// The kernel's number of a program.
///
/// # Errors
/// As [`map_info`].
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let [_kind, id]: [u32; 2] = info(program)?;
    Ok(id)
}

/// Attaches a program to a side of an interface in the calling thread's network namespace: first at ingress, last at
/// egress (TCX, Linux 6.6).
///
/// # Errors
/// Those of `BPF_LINK_CREATE`: `ENODEV` where there is no such interface, `EINVAL` on older kernels.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, side: Side) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        program: u32,
        ifindex: u32,
        side: u32,
        flags: u32,
        relative: u32,
        pad: u32,
        expected_revision: u64,
    }
    let flags = match side {
        Side::Ingress => BEFORE,
        Side::Egress => AFTER,
    };
    let attr = Attr {
        program: program.as_raw_fd() as u32,
        ifindex,
        side: side as u32,
        flags,
        relative: 0,
        pad: 0,
        expected_revision: 0,
    };
    call_for_fd(LINK_CREATE, &attr)
}

/// Replaces a link's program; no packet is missed.
///
/// # Errors
/// Those of `BPF_LINK_UPDATE`; `ENOLINK` where the interface is gone.
pub fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let attr = Attr {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    call(LINK_UPDATE, &attr).map(drop)
}

/// Reads one element.
///
/// # Errors
/// Those of `BPF_MAP_LOOKUP_ELEM`, apart from `ENOENT`, which is `None`.
pub fn lookup<K: NoUninit, V: AnyBitPattern>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let attr = element(map, key, value.as_mut_ptr() as u64);
    match call(MAP_LOOKUP_ELEM, &attr) {
        // SAFETY: any bytes are a `V`, and all of them were set.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one element of a per-CPU map: a value for each possible CPU. Values have a multiple of eight bytes.
///
/// # Errors
/// Those of `BPF_MAP_LOOKUP_ELEM`.
pub fn lookup_per_cpu<V: AnyBitPattern>(
    map: BorrowedFd<'_>,
    key: u32,
    cpus: usize,
) -> io::Result<Vec<V>> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let mut values = vec![V::zeroed(); cpus];
    call(
        MAP_LOOKUP_ELEM,
        &element(map, &key, values.as_mut_ptr() as u64),
    )?;
    Ok(values)
}

/// Writes one element, new or not.
///
/// # Errors
/// Those of `BPF_MAP_UPDATE_ELEM`: `E2BIG` where the map is full.
pub fn update<K: NoUninit, V: NoUninit>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    call(
        MAP_UPDATE_ELEM,
        &element(map, key, value as *const V as u64),
    )
    .map(drop)
}

/// Writes elements, new or not. An element that cannot be written does not keep the others from it.
pub fn update_batch<K: NoUninit, V: NoUninit>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Vec<Failed> {
    assert_eq!(keys.len(), values.len(), "every key has a value");
    let mut failed = Vec::new();
    let mut done = 0;
    while done < keys.len() {
        let count = (keys.len() - done).min(BATCH);
        let mut attr = BatchAttr::new(map, keys[done..].as_ptr(), values[done..].as_ptr(), count);
        let result = attr.call(MAP_UPDATE_BATCH);
        done += attr.done(&result, count);
        if result.is_ok() {
            continue;
        }
        // The one that the batch stopped at is tried alone, which names its error.
        if let Err(error) = update_patiently(map, &keys[done], &values[done]) {
            failed.push(Failed { index: done, error });
        }
        done += 1;
        if result.is_err_and(|e| lacks_batches(&e)) {
            for index in done..keys.len() {
                if let Err(error) = update_patiently(map, &keys[index], &values[index]) {
                    failed.push(Failed { index, error });
                }
            }
            break;
        }
    }
    failed
}

/// Deletes elements. Those that are not there count as deleted.
///
/// # Errors
/// Those of `BPF_MAP_DELETE_ELEM`, apart from `ENOENT`.
pub fn delete_batch<K: NoUninit>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut done = 0;
    let mut batches = true;
    while done < keys.len() {
        if batches {
            let count = (keys.len() - done).min(BATCH);
            let mut attr =
                BatchAttr::new(map, keys[done..].as_ptr(), std::ptr::null::<u8>(), count);
            let result = attr.call(MAP_DELETE_BATCH);
            done += attr.done(&result, count);
            match result {
                Ok(()) => continue,
                Err(error) => batches = !lacks_batches(&error),
            }
        }
        match call(MAP_DELETE_ELEM, &element(map, &keys[done], 0)) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => done += 1,
        }
    }
    Ok(())
}

/// Where reading the elements of a hash map goes on.
pub type Cursor = [u8; 64];

/// Reads all elements of a hash map, a batch at a time. Elements that come or go meanwhile may be missed.
///
/// # Errors
/// Those of `BPF_MAP_LOOKUP_BATCH`.
pub fn for_each_batch<K, V>(
    map: BorrowedFd<'_>,
    visit: impl FnMut(&[K], &[V]) -> io::Result<()>,
) -> io::Result<()>
where
    K: NoUninit + AnyBitPattern,
    V: AnyBitPattern,
{
    some_batches(map, None, usize::MAX, visit).map(drop)
}

/// Reads at most so many batches, from where reading stopped. Returns where it goes on; `None` at the end. Without batches
/// in the kernel it reads all.
///
/// # Errors
/// As [`for_each_batch`].
pub fn some_batches<K, V>(
    map: BorrowedFd<'_>,
    mut cursor: Option<Cursor>,
    most: usize,
    mut visit: impl FnMut(&[K], &[V]) -> io::Result<()>,
) -> io::Result<Option<Cursor>>
where
    K: NoUninit + AnyBitPattern,
    V: AnyBitPattern,
{
    let mut keys = vec![K::zeroed(); BATCH];
    let mut values = vec![V::zeroed(); BATCH];
    for _ in 0..most {
        let mut next: Cursor = [0; 64];
        let mut attr = BatchAttr::new(map, keys.as_mut_ptr(), values.as_mut_ptr(), BATCH);
        attr.in_batch = cursor.as_ref().map_or(0, |c| c.as_ptr() as u64);
        attr.out_batch = next.as_mut_ptr() as u64;
        let result = attr.call(MAP_LOOKUP_BATCH);
        let last = match &result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if cursor.is_none() && lacks_batches(error) => {
                one_by_one(map, visit)?;
                return Ok(None);
            }
            Err(_) => return result.map(|()| None),
        };
        let count = attr.count as usize;
        visit(&keys[..count], &values[..count])?;
        if last {
            return Ok(None);
        }
        cursor = Some(next);
    }
    Ok(cursor)
}

fn one_by_one<K, V>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&[K], &[V]) -> io::Result<()>,
) -> io::Result<()>
where
    K: NoUninit + AnyBitPattern,
    V: AnyBitPattern,
{
    // All keys first: a key that the visitor deletes would send the kernel's walk back to the beginning.
    for key in keys::<K>(map)? {
        if let Some(value) = lookup(map, &key)? {
            visit(&[key], &[value])?;
        }
    }
    Ok(())
}

/// The keys of a hash map. Those that come or go meanwhile may be missed.
///
/// # Errors
/// Those of `BPF_MAP_GET_NEXT_KEY`.
pub fn keys<K: NoUninit + AnyBitPattern>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    loop {
        let mut next = MaybeUninit::<K>::zeroed();
        let last = keys.last().map_or(0, |k| k as *const K as u64);
        let mut attr = element(map, &0_u8, next.as_mut_ptr() as u64);
        attr.key = last;
        match call(MAP_GET_NEXT_KEY, &attr) {
            // SAFETY: any bytes are a `K`, and all of them were set.
            Ok(_) => keys.push(unsafe { next.assume_init() }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// Elements of maps without preallocation come from a small per-CPU store that is refilled behind the caller's back,
/// so that `ENOMEM` may be gone a moment later.
fn update_patiently<K: NoUninit, V: NoUninit>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    for _ in 0..16 {
        match update(map, key, value) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
            result => return result,
        }
    }
    update(map, key, value)
}

/// Whether the kernel says that it has no batch calls for this map (before 5.6).
fn lacks_batches(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)
    )
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl BatchAttr {
    fn new<K, V>(map: BorrowedFd<'_>, keys: *const K, values: *const V, count: usize) -> Self {
        Self {
            in_batch: 0,
            out_batch: 0,
            keys: keys as u64,
            values: values as u64,
            count: count as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        }
    }

    fn call(&mut self, command: libc::c_long) -> io::Result<()> {
        // SAFETY: the attribute has the layout of `union bpf_attr` for batch commands, its pointers are those of
        // slices that are as long as `count` says, and the kernel writes back `count`.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self as *mut Self, size_of::<Self>()) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// How many elements the call got done. The kernel says so only where it came as far as to look at them.
    fn done(&self, result: &io::Result<()>, asked: usize) -> usize {
        match result {
            Ok(()) => asked,
            // A call that failed before its first element leaves the number as it was.
            Err(_) if self.count as usize >= asked => 0,
            Err(_) => self.count as usize,
        }
    }
}

fn element<K: NoUninit>(map: BorrowedFd<'_>, key: &K, value: u64) -> ElementAttr {
    ElementAttr {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: key as *const K as u64,
        value,
        flags: 0,
    }
}

fn info<T: AnyBitPattern>(object: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    #[derive(Clone, Copy, NoUninit)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = T::zeroed();
    let attr = Attr {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: &raw mut info as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info)
}

fn call<A: NoUninit>(command: libc::c_long, attr: &A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` has the layout of `union bpf_attr` for the command, and its pointers are to memory of the size
    // that the command reads or writes; the callers see to that.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *const A, size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn call_for_fd<A: NoUninit>(command: libc::c_long, attr: &A) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// How many values an element of a per-CPU map has: one for each CPU that may ever be there.
///
/// # Errors
/// Where sysfs cannot be read.
pub fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().unwrap_or_default();
    let last: usize = last
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(last + 1)
}

/// Memory that a map takes, in bytes, as the kernel accounts it.
///
/// # Errors
/// Where procfs cannot be read.
pub fn map_memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|figure| figure.trim().parse().ok())
        .unwrap_or(0))
}
