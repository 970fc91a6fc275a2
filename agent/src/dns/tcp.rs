//! Questions over TCP (RFC 7766), with a limit to connections.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hickory_proto::{op::MessageType, rr::Record, serialize::binary::BinEncoder};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    server::{Request, RequestHandler as _, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::handler::Handler;
use crate::config::dns::Limits;

/// A connection without a question for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The wait after a connection that cannot be accepted: descriptors are scarce.
const PAUSE: Duration = Duration::from_millis(50);
/// Length of a message's header.
const HEADER: usize = 12;

/// Serves a listener for ever.
pub(super) async fn serve(listener: TcpListener, handler: Handler) {
    let connections = Arc::new(Connections::default());
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let routes = handler.live.routes();
        let Some(place) = connections.take(client.ip(), &routes.limits) else {
            handler.metrics.refused.inc();
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, client, &handler).await {
                tracing::debug!(%client, %error, "a connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    handler: &Handler,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let Ok(message) = timeout(IDLE, message(&mut stream)).await else {
            return Ok(());
        };
        let Some(message) = message? else {
            return Ok(());
        };
        let Some(answer) = answer(message, client, handler).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// The next message; `None` at the end.
async fn message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// The answer to a message; `None` where it gets none.
async fn answer(message: Vec<u8>, client: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let header: [u8; HEADER] = message.get(..HEADER)?.try_into().ok()?;
    let Ok(request) = Request::from_bytes(message, client, Protocol::Tcp) else {
        return Some(malformed(header).to_vec());
    };
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let frame = Frame::default();
    handler
        .handle_request::<_, TokioTime>(&request, frame.clone())
        .await;
    let answer = std::mem::take(&mut *frame.lock());
    (!answer.is_empty()).then_some(answer)
}

/// FORMERR, without a question.
fn malformed(header: [u8; HEADER]) -> [u8; HEADER] {
    const QR: u8 = 0x80;
    const OPCODE_AND_RD: u8 = 0x79;
    const CD: u8 = 0x10;
    const FORMERR: u8 = 1;
    let mut answer = [0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = QR | header[2] & OPCODE_AND_RD;
    answer[3] = header[3] & CD | FORMERR;
    answer
}

/// An answer in wire form.
#[derive(Clone, Debug, Default)]
struct Frame(Arc<Mutex<Vec<u8>>>);

impl Frame {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Frame {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.lock() = bytes;
        Ok(info)
    }
}

/// How many connections there are, by client.
#[derive(Debug, Default)]
struct Connections(Mutex<HashMap<IpAddr, u32>>);

/// The place of a connection among them.
struct Place {
    of: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// A place for one more; `None` where there are too many.
    fn take(self: &Arc<Self>, client: IpAddr, limits: &Limits) -> Option<Place> {
        let client = client.to_canonical();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(&client).copied().unwrap_or(0);
        let sum: u32 = all.values().sum();
        let full = |most: Option<u32>, count: u32| most.is_some_and(|most| count >= most);
        if full(limits.tcp_connections.map(|most| most.get()), sum)
            || full(
                limits.tcp_connections_per_client.map(|most| most.get()),
                own,
            )
        {
            return None;
        }
        all.insert(client, own + 1);
        Some(Place {
            of: Arc::clone(self),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.client);
            }
        }
    }
}
