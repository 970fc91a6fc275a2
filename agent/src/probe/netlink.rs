//! Single requests over netlink, for what other crates have no messages for, and for families that may not be there.

use std::io;

use netlink_sys::{Socket, SocketAddr};

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// Sends one message and reads the first one that comes back.
///
/// # Errors
/// What the kernel answers: `ENOENT` for a generic family that is not there, for instance.
pub(super) fn ask(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = (HEADER + payload.len()) as u32;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(payload);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    outcome(&answer)
}

/// As [`ask`], for what is answered by an acknowledgement only.
///
/// # Errors
/// As there.
pub(super) fn tell(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
    ask(protocol, kind, ACKNOWLEDGE | flags, payload)
}

/// An attribute, filled up to a multiple of four.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn outcome(answer: &[u8]) -> io::Result<()> {
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok();
    let kind: Option<[u8; 4]> = word(4);
    let code: Option<[u8; 4]> = word(HEADER);
    match (kind, code) {
        (Some([a, b, ..]), Some(code)) if u16::from_ne_bytes([a, b]) == ERROR => {
            match i32::from_ne_bytes(code) {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(-code)),
            }
        }
        (Some(_), _) => Ok(()),
        (None, _) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_and_an_acknowledgement_is_none() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert!(outcome(&answer(ERROR, 0)).is_ok());
        assert!(outcome(&answer(16, 7)).is_ok());
        let error = outcome(&answer(ERROR, -libc::ENOENT)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(outcome(&[]).is_err());
    }

    #[test]
    fn an_attribute_ends_at_a_multiple_of_four() {
        let bytes = attribute(2, b"IPVS\0");
        assert_eq!(bytes.len(), 12);
        assert_eq!(
            &bytes[..4],
            &[9_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat()[..]
        );
    }
}
