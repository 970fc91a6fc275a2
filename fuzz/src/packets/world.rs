//! Tables out of few addresses and ports, so that the packets meet them.

use std::net::{IpAddr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use signpost_common::{
    Address, Port,
    device::DeviceValue,
    dns::Config,
    name::{HashKeys, NameKey},
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, RangeKey, SlotKey,
        SlotValue,
    },
};
use signpost_ebpf::host::Memory;

/// Addresses of pods, Services, nodes and machines outside: each of these families has as many.
const ADDRESSES: u8 = 8;
const PORTS: [u16; 5] = [53, 80, 8080, 30_080, 61_000];
const SECOND: u64 = 1_000_000_000;

/// One of few addresses.
pub(super) fn address(input: &mut Unstructured<'_>, v4: bool) -> Result<IpAddr> {
    let number = input.int_in_range(0..=ADDRESSES - 1)?;
    Ok(if v4 {
        [10, 0, 0, number].into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
    })
}

/// One of few ports.
pub(super) fn port(input: &mut Unstructured<'_>) -> Result<u16> {
    input.choose(&PORTS).copied()
}

/// Tables as an agent might have written them.
pub(super) fn tables(input: &mut Unstructured<'_>) -> Result<Memory> {
    let mut tables = Memory::default();
    tables.now = 1000 * SECOND;
    tables.in_sync_at = tables.now;
    tables.random.set(input.arbitrary()?);
    tables.config = config(input)?;
    if input.ratio(1, 4)? {
        tables.dns_alive_at = tables.now - input.int_in_range(0..=2)? * SECOND;
    }
    let device = DeviceValue {
        v4: address(input, true)?.into(),
        v6: address(input, false)?.into(),
    };
    if input.ratio(7, 8)? {
        tables.devices.insert(DeviceValue::ANY, device);
    }
    for _ in 0..input.int_in_range(0..=8)? {
        let v4 = input.arbitrary()?;
        let at = Address::from(address(input, v4)?);
        let flags = input.int_in_range(0..=63)?;
        tables.addresses.insert(at, AddressValue { flags });
    }
    for service in 1..=input.int_in_range(0..=4)? {
        add_service(input, &mut tables, service)?;
    }
    for _ in 0..input.int_in_range(0..=3)? {
        let v4: bool = input.arbitrary()?;
        let least = if v4 { 32 + 96 } else { 32 };
        let key = RangeKey {
            bits: input.int_in_range(least..=RangeKey::ALL_BITS)?,
            service: input.int_in_range(0..=4)?,
            address: address(input, v4)?.into(),
        };
        tables.source_ranges.insert(key, 1);
    }
    Ok(tables)
}

fn config(input: &mut Unstructured<'_>) -> Result<Option<Config>> {
    if input.ratio(1, 16)? {
        return Ok(None);
    }
    let name = NameKey {
        labels: 2,
        ..NameKey::ZERO
    };
    Ok(Some(Config {
        flags: input.int_in_range(0..=255)?,
        negative_grace: 300,
        zone: name,
        services: name,
        soa: [0; 56],
        hash: HashKeys { words: [7; 72] },
        host: [0; 2],
        service_ranges: Default::default(),
        dns: Default::default(),
        external_ports: *input.choose(&[Config::NO_PORTS, [0, u16::MAX]])?,
        pad: 0,
    }))
}

fn add_service(input: &mut Unstructured<'_>, tables: &mut Memory, service: u32) -> Result<()> {
    let v4 = input.arbitrary()?;
    let frontend = Address::from(address(input, v4)?);
    let number = port(input)?;
    let protocol = *input.choose(&[6_u8, 17])?;
    let backends: Vec<(Address, Port, bool)> = (0..input.int_in_range(0..=3)?)
        .map(|_| {
            let at = Address::from(address(input, v4)?);
            Ok((at, Port::new(port(input)?), input.arbitrary()?))
        })
        .collect::<Result<_>>()?;
    let mut value = FrontendValue {
        service,
        generation: 1,
        flags: input.int_in_range(0..=63)?,
        affinity_timeout: *input.choose(&[0, 0, 2])?,
        ..FrontendValue::ZERO
    };
    for (at, port, here) in backends {
        let mut slot = |index| {
            let key = SlotKey {
                service,
                generation: 1,
                index,
            };
            let flags = if here { SlotValue::LOCAL } else { 0 };
            let value = SlotValue {
                service,
                generation: 1,
                address: at,
                port,
                flags,
            };
            tables.slots.insert(key, value);
        };
        slot(value.cluster);
        value.cluster += 1;
        if here {
            slot(SlotKey::LOCAL + value.local);
            value.local += 1;
        }
        let key = MemberKey {
            service,
            address: at,
            port,
            pad: 0,
        };
        let flags = MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::CLUSTER;
        let local = if here { MemberValue::LOCAL } else { 0 };
        let flags = (flags | local) & !(*input.choose(&[0, 0, 0, 1, 2])?);
        tables.members.insert(key, MemberValue { flags });
    }
    let mut key = FrontendKey {
        address: frontend,
        port: Port::new(number),
        protocol,
        pad: 0,
    };
    let place = tables.addresses.entry(frontend).or_default();
    if input.ratio(1, 3)? {
        place.flags |= AddressValue::NODE | AddressValue::NODE_PORT;
        key.address = if v4 {
            Address::v4([0; 4])
        } else {
            Address::UNSPECIFIED
        };
        value.flags |= FrontendValue::EXTERNAL;
    } else {
        place.flags |= AddressValue::SERVICE;
    }
    value.check = key.check();
    tables.frontends.insert(key, value);
    Ok(())
}
