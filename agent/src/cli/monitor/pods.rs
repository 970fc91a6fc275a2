//! Whose an address is, as far as the agent says: the Pods that are ready behind some Service, and all where it watches Pods.

use std::{collections::HashMap, net::IpAddr};

use crate::model::{Addresses, Event, Kind, Object, ObjectName};

/// Names of Pods by their addresses.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    objects: HashMap<(Kind, ObjectName), Vec<IpAddr>>,
    /// With how many objects name the address.
    pods: HashMap<IpAddr, (ObjectName, usize)>,
}

impl PodNames {
    /// Takes in a change.
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(Object::EndpointSlice(slice), _) => {
                let endpoints = slice.endpoints.iter();
                let of_pods = endpoints.filter_map(|endpoint| {
                    let pod = endpoint.pod.clone()?;
                    let name = ObjectName::new(slice.name.namespace.clone(), pod);
                    Some((name, &endpoint.addresses))
                });
                self.learn((Kind::EndpointSlice, slice.name.clone()), of_pods);
            }
            Event::Apply(Object::Pod(pod), _) => {
                let own = (pod.name.clone(), &pod.addresses);
                self.learn((Kind::Pod, pod.name.clone()), [own]);
            }
            Event::Delete(kind, name) => self.forget(&(kind, name)),
            _ => {}
        }
    }

    /// The Pod at an address.
    pub(super) fn of(&self, address: &IpAddr) -> Option<&ObjectName> {
        self.pods.get(address).map(|(name, _)| name)
    }

    fn learn<'a>(
        &mut self,
        object: (Kind, ObjectName),
        pods: impl IntoIterator<Item = (ObjectName, &'a Addresses)>,
    ) {
        self.forget(&object);
        let mut addresses = Vec::new();
        for (name, of_pod) in pods {
            for address in of_pod.iter() {
                let known = self.pods.entry(*address).or_insert((name.clone(), 0));
                known.0 = name.clone();
                known.1 += 1;
                addresses.push(*address);
            }
        }
        if !addresses.is_empty() {
            self.objects.insert(object, addresses);
        }
    }

    fn forget(&mut self, object: &(Kind, ObjectName)) {
        for address in self.objects.remove(object).unwrap_or_default() {
            if let Some((_, objects)) = self.pods.get_mut(&address) {
                *objects -= 1;
                if *objects == 0 {
                    self.pods.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Endpoint, EndpointSlice, Family};

    fn slice(name: &str, pods: &[(&str, [u8; 4])]) -> Event {
        let endpoint = |(pod, address): &(&str, [u8; 4])| Endpoint {
            addresses: vec![IpAddr::from(*address)].into(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            hints: None,
            pod: Some(Arc::from(*pod)),
        };
        let slice = EndpointSlice {
            name: ObjectName::new("dev", name),
            service: None,
            family: Family::V4,
            ports: Vec::new(),
            endpoints: pods.iter().map(endpoint).collect(),
            proxied: true,
            triggered: None,
            labels: Default::default(),
        };
        Event::Apply(Object::EndpointSlice(Arc::new(slice)), Vec::new())
    }

    fn name(pods: &PodNames, last: u8) -> Option<String> {
        pods.of(&[10, 0, 0, last].into()).map(ToString::to_string)
    }

    #[test]
    fn a_pod_has_its_name_for_as_long_as_some_slice_has_its_address() {
        let mut pods = PodNames::default();
        pods.apply(slice(
            "a",
            &[("one", [10, 0, 0, 1]), ("two", [10, 0, 0, 2])],
        ));
        pods.apply(slice("b", &[("one", [10, 0, 0, 1])]));
        assert_eq!(name(&pods, 1).as_deref(), Some("dev/one"));
        pods.apply(slice("a", &[("two", [10, 0, 0, 2])]));
        assert_eq!(name(&pods, 1).as_deref(), Some("dev/one"));
        pods.apply(Event::Delete(
            Kind::EndpointSlice,
            ObjectName::new("dev", "b"),
        ));
        assert_eq!(name(&pods, 1), None);
        assert_eq!(name(&pods, 2).as_deref(), Some("dev/two"));
        // Another Pod gets the address.
        pods.apply(slice("c", &[("new", [10, 0, 0, 2])]));
        pods.apply(slice("a", &[]));
        assert_eq!(name(&pods, 2).as_deref(), Some("dev/new"));
    }
}
