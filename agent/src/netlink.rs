//! Requests to rtnetlink, and notices from it.

use std::{io, time::Duration};

use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use tokio::time::sleep;

/// What is set up in several steps gives several notices: they are one.
const SETTLE: Duration = Duration::from_millis(2);

/// A handle for requests, and the notices that say when it is time to ask again. In the network namespace of the thread
/// that opens it.
///
/// What there is has to be read from lists: a notice may be lost.
pub(crate) struct Watch {
    /// For requests.
    pub(crate) handle: Handle,
    notices: BoxStream<'static, ()>,
    groups: &'static [MulticastGroup],
}

impl Watch {
    /// Watches what some groups are told of.
    ///
    /// # Errors
    /// Where the kernel refuses a netlink socket.
    pub(crate) fn open(groups: &'static [MulticastGroup]) -> io::Result<Self> {
        let (handle, notices) = connect(groups)?;
        Ok(Self {
            handle,
            notices,
            groups,
        })
    }

    /// Waits until there is news and what it is about has settled, or for so long. Returns whether there is news.
    ///
    /// # Errors
    /// Where the kernel refuses a netlink socket.
    pub(crate) async fn news(&mut self, most: Duration) -> io::Result<bool> {
        tokio::select! {
            notice = self.notices.next() => {
                if notice.is_none() {
                    // The kernel dropped notices that were not read in time, which ends the connection.
                    (self.handle, self.notices) = connect(self.groups)?;
                    return Ok(true);
                }
                sleep(SETTLE).await;
                while self.notices.next().now_or_never().flatten().is_some() {}
                Ok(true)
            }
            () = sleep(most) => Ok(false),
        }
    }
}

/// A notice bears the number of the request that another process made. On one connection with a request of ours that has
/// this number it would pass for its answer, so there are two.
fn connect(groups: &[MulticastGroup]) -> io::Result<(Handle, BoxStream<'static, ()>)> {
    let (connection, listening, notices) = new_multicast_connection(groups)?;
    tokio::spawn(connection);
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    let notices = notices.map(move |_| {
        // The connection ends with its last handle.
        let _ = &listening;
    });
    Ok((handle, notices.boxed()))
}
