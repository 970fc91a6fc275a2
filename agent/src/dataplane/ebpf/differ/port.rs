//! A service port as elements of the maps.

use signpost_common::{
    Address, Port,
    service::{
        FrontendKey, FrontendValue, MemberKey, MemberValue, ServiceValue, SlotKey, SlotValue,
    },
};

use super::ranges::{Range, range};
use crate::{
    model::Family,
    plan::{Backend, FrontendKind, Member, PortName, PortPlan},
};

/// A backend in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Address of the backend.
    pub(super) address: Address,
    /// Port of the backend.
    pub(super) port: Port,
    /// As in [`SlotValue::flags`].
    pub(super) flags: u16,
}

/// The two sets of a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    /// The cluster set.
    pub(super) cluster: Vec<Place>,
    /// The local set.
    pub(super) local: Vec<Place>,
}

/// An endpoint, and its flags as in [`MemberValue`].
pub(super) type Endpoint = ((Address, Port), u32);

/// A service port, apart from id and generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// Where clients send to, each with the flags that are its own.
    pub(super) frontends: Vec<(FrontendKey, u32)>,
    /// Who may use the load balancer's addresses, in order; empty for everybody.
    pub(super) ranges: Vec<Range>,
    /// The sets.
    pub(super) sets: Sets,
    /// The endpoints, by address and port.
    pub(super) members: Vec<Endpoint>,
    flags: u32,
    affinity_timeout: u32,
}

/// A service port as it is in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// The service port's number.
    pub(super) id: u32,
    /// The current generation of slots.
    pub(super) generation: u32,
    /// The newest generation of which there may be slots.
    pub(super) newest: u32,
    /// Whether the element of `services` says so.
    pub(super) named: bool,
    /// The frontends.
    pub(super) frontends: Vec<(FrontendKey, FrontendValue)>,
    /// Who may use the load balancer's addresses, in order.
    pub(super) ranges: Vec<Range>,
    /// The sets of the current generation.
    pub(super) sets: Sets,
    /// The endpoints, by address and port.
    pub(super) members: Vec<Endpoint>,
}

impl Elements {
    /// From a plan.
    pub(super) fn of(name: &PortName, plan: &PortPlan) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let key = |address| FrontendKey {
            address: Address::from(address),
            port: Port::default(),
            protocol: name.protocol.number(),
            pad: 0,
        };
        let mut frontends: Vec<(FrontendKey, u32)> = Vec::with_capacity(plan.frontends.len());
        for frontend in &plan.frontends {
            let key = FrontendKey {
                port: Port::new(frontend.port),
                ..key(frontend.address)
            };
            let own = match frontend.kind {
                FrontendKind::ClusterIp => 0,
                FrontendKind::LoadBalancer if !plan.source_ranges.is_empty() => {
                    FrontendValue::EXTERNAL | FrontendValue::SOURCE_RANGES
                }
                FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
                    FrontendValue::EXTERNAL
                }
            };
            if frontends.iter().all(|(other, _)| *other != key) {
                frontends.push((key, own));
            }
        }
        let mut ranges: Vec<Range> = plan.source_ranges.iter().map(range).collect();
        ranges.sort_unstable();
        ranges.dedup();
        let mut members: Vec<Endpoint> = plan.members.iter().map(endpoint).collect();
        members.sort_unstable_by_key(|(at, _)| *at);
        members.dedup_by_key(|(at, _)| *at);
        Self {
            frontends,
            ranges,
            sets: Sets {
                cluster: places(&plan.cluster),
                local: places(&plan.local),
            },
            members,
            flags: flag(plan.internal_local, FrontendValue::INTERNAL_LOCAL)
                | flag(plan.external_local, FrontendValue::EXTERNAL_LOCAL)
                | flag(plan.any_endpoints, FrontendValue::ANY_ENDPOINTS)
                | flag(plan.dns, FrontendValue::DNS),
            affinity_timeout: plan.affinity_timeout.unwrap_or(0),
        }
    }

    /// The frontends' keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.frontends.iter().map(|(key, _)| key)
    }

    /// The value of a frontend with flags of its own.
    pub(super) fn frontend(
        &self,
        (key, own): &(FrontendKey, u32),
        id: u32,
        generation: u32,
    ) -> FrontendValue {
        FrontendValue {
            check: key.check(),
            service: id,
            generation,
            cluster: self.sets.cluster.len() as u32,
            local: self.sets.local.len() as u32,
            flags: self.flags | own,
            affinity_timeout: self.affinity_timeout,
        }
    }

    /// The flags of an endpoint.
    pub(super) fn member(&self, at: (Address, Port)) -> Option<u32> {
        let index = self.members.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.members[index].1)
    }

    /// Whether this is one of the endpoints.
    pub(super) fn has_member(&self, at: (Address, Port)) -> bool {
        self.member(at).is_some()
    }

    /// What can be done without room for anything new: backends that `new` does not have any more leave their places
    /// to those that stay. `written` is what is there.
    pub(super) fn without_room(new: &Self, written: &Written) -> Self {
        let survivors = |old: &[Place], new: &[Place]| -> Vec<Place> {
            let stays: Vec<Place> = old
                .iter()
                .filter(|place| new.contains(place))
                .copied()
                .collect();
            if stays.is_empty() {
                return stays;
            }
            let mut others = stays.iter().cycle();
            let replace = |place: &Place| {
                if new.contains(place) {
                    Some(*place)
                } else {
                    others.next().copied()
                }
            };
            old.iter().filter_map(replace).collect()
        };
        let keeps = |key: &FrontendKey| written.frontends.iter().any(|(other, _)| other == key);
        let knows = |at: (Address, Port)| written.member(at).is_some();
        Self {
            frontends: new
                .frontends
                .iter()
                .filter(|(key, _)| keeps(key))
                .copied()
                .collect(),
            // Where a range has no room, its clients are not let in.
            ranges: new
                .ranges
                .iter()
                .filter(|range| written.ranges.contains(range))
                .copied()
                .collect(),
            sets: Sets {
                cluster: survivors(&written.sets.cluster, &new.sets.cluster),
                local: survivors(&written.sets.local, &new.sets.local),
            },
            members: new
                .members
                .iter()
                .filter(|(at, _)| knows(*at))
                .copied()
                .collect(),
            flags: new.flags,
            affinity_timeout: new.affinity_timeout,
        }
    }
}

impl Sets {
    /// The elements of a generation.
    pub(super) fn slots(
        &self,
        service: u32,
        generation: u32,
    ) -> impl Iterator<Item = (SlotKey, SlotValue)> {
        let element = move |(index, place): (u32, &Place)| {
            let Place {
                address,
                port,
                flags,
            } = *place;
            let key = SlotKey {
                service,
                generation,
                index,
            };
            (
                key,
                SlotValue {
                    service,
                    generation,
                    address,
                    port,
                    flags,
                },
            )
        };
        let cluster = (0..).zip(&self.cluster);
        let local = (SlotKey::LOCAL..).zip(&self.local);
        cluster.chain(local).map(element)
    }

    /// How many slots they take.
    pub(super) fn len(&self) -> usize {
        self.cluster.len() + self.local.len()
    }
}

impl Written {
    /// The flags of an endpoint.
    pub(super) fn member(&self, at: (Address, Port)) -> Option<u32> {
        let index = self.members.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.members[index].1)
    }

    /// The value of a frontend.
    pub(super) fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        self.frontends
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, value)| value)
    }

    /// Whether all of these elements are there.
    pub(super) fn is(&self, elements: &Elements) -> bool {
        self.named
            && self.sets == elements.sets
            && self.members == elements.members
            && self.ranges == elements.ranges
            && self.frontends.len() == elements.frontends.len()
            && elements.frontends.iter().all(|way| {
                self.frontend(&way.0) == Some(&elements.frontend(way, self.id, self.generation))
            })
    }

    /// How many slots of each set are in use in the current generation, and in those that frontends lead to: a frontend
    /// that could not be replaced still leads to the old one.
    pub(super) fn used(&self) -> impl Iterator<Item = (u32, [u32; 2])> {
        let of_frontends = self
            .frontends
            .iter()
            .map(|(_, value)| (value.generation, [value.cluster, value.local]));
        let lengths = [self.sets.cluster.len(), self.sets.local.len()];
        of_frontends.chain([(self.generation, lengths.map(|length| length as u32))])
    }
}

/// Whether an endpoint with these flags serves.
pub(super) const fn serves(flags: u32) -> bool {
    flags & MemberValue::SERVING != 0
}

/// The key of an endpoint's element.
pub(super) fn member_key(service: u32, (address, port): (Address, Port)) -> MemberKey {
    MemberKey {
        service,
        address,
        port,
        pad: 0,
    }
}

/// The element of `services`; `None` where a name is too long for it, which a valid DNS label is not.
pub(super) fn service_value(name: &PortName, generation: u32) -> Option<ServiceValue> {
    Some(ServiceValue {
        namespace: padded(&name.service.namespace)?,
        name: padded(&name.service.name)?,
        port_name: padded(&name.port)?,
        protocol: name.protocol.number(),
        family: match name.family {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        pad: [0; 2],
        generation,
    })
}

fn padded(text: &str) -> Option<[u8; 64]> {
    let mut bytes = [0; 64];
    let room = bytes.len() - 1;
    bytes[..room]
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    Some(bytes)
}

fn places(backends: &[Backend]) -> Vec<Place> {
    let place = |backend: &Backend| Place {
        address: backend.address.into(),
        port: Port::new(backend.port),
        flags: if backend.local { SlotValue::LOCAL } else { 0 },
    };
    backends.iter().map(place).collect()
}

fn endpoint(member: &Member) -> Endpoint {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let flags = flag(member.serving, MemberValue::SERVING)
        | flag(member.chosen, MemberValue::CHOSEN)
        | flag(member.cluster, MemberValue::CLUSTER)
        | flag(member.local, MemberValue::LOCAL);
    ((member.address.into(), Port::new(member.port)), flags)
}
