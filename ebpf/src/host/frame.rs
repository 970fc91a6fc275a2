//! A packet in a byte vector. Checksums are finished ones, as without offload.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{Cause, flow::FlowValue};

use crate::{
    dns::{self, Scratch},
    headers::Headers,
    packet::{ETHERNET, PAD, Packet, Part},
    sum::Sum,
    tables::Tables,
};

/// Index and Ethernet address of the loopback interface: where the kernel's test runs have their packets.
const LOOPBACK: u32 = 1;
const HOST: [u8; 6] = [0; 6];

/// An Ethernet frame, at the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    fn slot(&mut self, offset: u32, length: usize) -> Result<&mut [u8], Cause> {
        let start = offset as usize;
        self.0
            .get_mut(start..start + length)
            .ok_or(Cause::HelperFailed)
    }

    fn slice(&self, offset: u32, length: usize) -> Result<&[u8], Cause> {
        let start = offset as usize;
        self.0.get(start..start + length).ok_or(Cause::TooShort)
    }
}

impl Packet for Frame {
    const IP: u32 = ETHERNET;

    fn ethertype(&self) -> u16 {
        self.slice(12, 2)
            .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn device(&self) -> u32 {
        LOOPBACK
    }

    fn is_for_host(&self) -> bool {
        self.slice(0, 6).is_ok_and(|to| to == HOST)
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }

    fn load<T: AnyBitPattern>(&self, offset: u32) -> Result<T, Cause> {
        self.slice(offset, size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
    }

    fn load_into<const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        length: u32,
    ) -> Result<(), Cause> {
        let bytes = self.slice(offset, length as usize)?;
        to.get_mut(..bytes.len())
            .ok_or(Cause::TooShort)?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn store<T: NoUninit>(&mut self, offset: u32, value: &T) -> Result<(), Cause> {
        self.slot(offset, size_of::<T>())?
            .copy_from_slice(bytemuck::bytes_of(value));
        Ok(())
    }

    fn store_behind_pad<T: NoUninit>(&mut self, value: &T) -> Result<(), Cause> {
        let bytes = &bytemuck::bytes_of(value)[PAD..];
        self.slot(0, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn store_part<const N: usize>(
        &mut self,
        offset: u32,
        from: &[u8; N],
        start: u32,
        length: u32,
    ) -> Result<(), Cause> {
        let (start, length) = (start as usize, length as usize);
        let part = from.get(start..start + length).ok_or(Cause::HelperFailed)?;
        self.slot(offset, length)?.copy_from_slice(part);
        Ok(())
    }

    fn set_length(&mut self, length: u32) -> Result<(), Cause> {
        self.0.resize(length as usize, 0);
        Ok(())
    }

    fn insert_before_ip(&mut self, bytes: u32) -> Result<(), Cause> {
        let at = ETHERNET as usize;
        self.0
            .splice(at..at, std::iter::repeat_n(0, bytes as usize));
        Ok(())
    }

    fn update_checksum(
        &mut self,
        offset: u32,
        difference: Sum,
        _part: Part,
        udp: bool,
    ) -> Result<(), Cause> {
        let field: u16 = self.load(offset).map_err(|_| Cause::HelperFailed)?;
        if udp && field == 0 {
            return Ok(());
        }
        let updated = difference.update(field);
        self.store(offset, &if udp && updated == 0 { 0xffff } else { updated })
    }

    fn send_on(&mut self, _headers: &Headers, _flow: &FlowValue, _headers_length: u32) -> bool {
        false // a frame in memory has no way
    }

    fn resolve<T: Tables>(&mut self, tables: &T, scratch: &mut Scratch) -> Result<Cause, Cause> {
        dns::resolve(self, tables, scratch)
    }
}
