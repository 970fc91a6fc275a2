//! What goes through each service port, as the programs have counted it.

use std::{collections::BTreeMap, io};

use signpost_common::count::ServiceCount;

use super::{
    sys,
    tables::{KernelTables, ServiceCounts, Tables as _},
};

/// Everything that is counted, by service id, summed over the CPUs.
///
/// # Errors
/// Where the map cannot be read.
pub fn read(tables: &KernelTables) -> io::Result<BTreeMap<u32, ServiceCount>> {
    let cpus = sys::possible_cpus()?;
    let map = tables.map::<ServiceCounts>()?;
    let mut counts = BTreeMap::new();
    for service in sys::keys::<u32>(map)? {
        match sys::lookup_per_cpu::<ServiceCount>(map, service, cpus) {
            Ok(of_cpus) => drop(counts.insert(service, ServiceCount::sum(&of_cpus))),
            // Gone since.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(counts)
}

/// Forgets everything that was counted.
///
/// # Errors
/// Where the map cannot be changed.
pub fn clear(tables: &mut KernelTables) -> io::Result<()> {
    let keys = sys::keys::<u32>(tables.map::<ServiceCounts>()?)?;
    tables.delete::<ServiceCounts>(&keys)
}
