//! Requests to rtnetlink, and notices from it.

use futures::{Stream, StreamExt as _};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};

/// A handle for requests, and the notices of some groups until the kernel drops one that was not read in time. In the
/// network namespace of the calling thread.
///
/// A notice bears the number of the request that another process made. On one connection with a request of ours that has
/// this number it would pass for its answer, so there are two.
///
/// # Errors
/// Where the kernel refuses a netlink socket.
pub(crate) fn connect(
    groups: &[MulticastGroup],
) -> std::io::Result<(Handle, impl Stream<Item: Send> + Send + Unpin + use<>)> {
    let (connection, listening, notices) = new_multicast_connection(groups)?;
    tokio::spawn(connection);
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    let notices = notices.map(move |notice| {
        // The connection ends with its last handle.
        let _ = &listening;
        notice
    });
    Ok((handle, notices))
}
