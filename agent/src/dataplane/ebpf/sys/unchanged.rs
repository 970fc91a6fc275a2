//! Deleting elements that programs may write at the same time.

use std::{io, mem::MaybeUninit, os::fd::BorrowedFd};

use bytemuck::{AnyBitPattern, NoUninit};

use super::{ENOTSUPP, MAP_DELETE_ELEM, MAP_UPDATE_ELEM, call, element, lookup};

const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// Deletes an element where it is as `may_go` wants it; returns whether it went.
///
/// One that is written between the look and the deletion is put back, unless another one is there again by then. Kernels
/// before 5.14 cannot tell what they delete from a hash map; there the time between two calls is left to chance.
///
/// # Errors
/// Those of the calls, apart from `ENOENT`.
pub fn delete_if<K, V>(
    map: BorrowedFd<'_>,
    key: &K,
    mut may_go: impl FnMut(&V) -> bool,
) -> io::Result<bool>
where
    K: NoUninit,
    V: NoUninit + AnyBitPattern,
{
    if !lookup(map, key)?.is_some_and(|value| may_go(&value)) {
        return Ok(false);
    }
    let Some(taken) = take(map, key)? else {
        return Ok(true);
    };
    if may_go(&taken) {
        return Ok(true);
    }
    let mut attr = element(map, key, &raw const taken as u64);
    attr.flags = NO_EXIST;
    match call(MAP_UPDATE_ELEM, &attr) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(false),
    }
}

/// Deletes an element; returns what it was, where it was there and the kernel can tell.
fn take<K: NoUninit, V: AnyBitPattern>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let attr = element(map, key, value.as_mut_ptr() as u64);
    match call(MAP_LOOKUP_AND_DELETE_ELEM, &attr) {
        // SAFETY: any bytes are a `V`, and all of them were set.
        Ok(_) => return Ok(Some(unsafe { value.assume_init() })),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => return Ok(None),
            Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL) => {}
            _ => return Err(error),
        },
    }
    match call(MAP_DELETE_ELEM, &element(map, key, 0)) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(None),
    }
}
