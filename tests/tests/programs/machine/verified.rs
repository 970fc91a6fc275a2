//! What the verifier says of each program. It is loaded without aya here, which keeps the verifier's words to itself where the
//! program is accepted; kernels before 5.16 tell in no other way how much they looked at.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use aya_obj::{
    Function, Object, ProgramSection,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};
use signpost::dataplane::ebpf::program::{OBJECT, SocketProgram};

/// `BPF_LOG_STATS`.
const STATISTICS: u32 = 4;

/// What the verifier said of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) program: String,
    /// How many instructions it looked at.
    pub(crate) instructions: u32,
    /// How long loading took, translation included.
    pub(crate) took: Duration,
}

/// Loads every program of the object, with this value for whether the kernel has `bpf_set_retval`. Needs root.
pub(crate) fn verify(has_set_retval: bool) -> Vec<Verified> {
    let maps = EbpfLoader::new()
        .override_global("HAS_SET_RETVAL", &u32::from(has_set_retval), true)
        .load(OBJECT)
        .expect("the object loads; this needs root");
    let mut object = Object::parse(OBJECT).expect("an object");
    let features = aya::features();
    let btf = features.btf().and_then(|features| {
        let btf = object.fixup_and_sanitize_btf(features).expect("BTF");
        btf.map(|btf| load_btf(&btf.to_bytes()).expect("the kernel accepts the BTF"))
    });
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let described = std::mem::take(&mut object.maps);
    let with_fds = described.iter().map(|(name, map)| {
        let loaded = data(maps.map(name).expect("a map of that name"));
        (name.as_str(), loaded.fd().as_fd().as_raw_fd(), map)
    });
    object.relocate_maps(with_fds, &sections).expect("its maps");
    object.relocate_calls(&sections).expect("its functions");
    object.sanitize_functions(features);
    let mut verified: Vec<Verified> = object
        .programs
        .iter()
        .map(|(name, program)| {
            let function = &object.functions[&program.function_key()];
            let begun = Instant::now();
            let log = load(name, &program.section, function, btf.as_ref())
                .unwrap_or_else(|(error, log)| panic!("{name}: {error}: {log}"));
            Verified {
                program: name.clone(),
                instructions: processed(&log).unwrap_or_else(|| panic!("{name}: {log}")),
                took: begun.elapsed(),
            }
        })
        .collect();
    verified.sort_by(|a, b| a.program.cmp(&b.program));
    verified
}

/// Out of `processed 177591 insns (limit 1000000) …`.
fn processed(log: &str) -> Option<u32> {
    let (_, rest) = log.split_once("processed ")?;
    rest.split_once(" insns")?.0.parse().ok()
}

fn load(
    name: &str,
    section: &ProgramSection,
    function: &Function,
    btf: Option<&OwnedFd>,
) -> Result<String, (io::Error, String)> {
    let mut log = vec![0_u8; 1 << 16];
    let functions = function.func_info.func_info_bytes();
    let socket = SocketProgram::ALL
        .into_iter()
        .find(|program| program.name() == name);
    // SAFETY: all zero is a valid attribute.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: this command's part of the attribute is written before it is read.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    (load.prog_type, load.expected_attach_type) = match section {
        ProgramSection::SchedClassifier => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32, 0),
        ProgramSection::CgroupSockAddr { .. } => (
            bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32,
            socket.unwrap_or(SocketProgram::Connect4).call() as u32,
        ),
        other => panic!("{name} is of another kind: {other:?}"),
    };
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = function.instructions.len() as u32;
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    load.log_level = STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    if let Some(btf) = btf {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        load.func_info = functions.as_ptr() as u64;
        load.func_info_cnt = function.func_info.len() as u32;
        load.func_info_rec_size = function.func_info_rec_size as u32;
    }
    let loaded = call(bpf_cmd::BPF_PROG_LOAD, &attr);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).into_owned();
    match loaded {
        Ok(_) => Ok(log),
        Err(error) => Err((error, log)),
    }
}

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: all zero is a valid attribute.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: this command's part of the attribute is written before it is read.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = bytes.len() as u32;
    call(bpf_cmd::BPF_BTF_LOAD, &attr)
}

fn call(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attribute's pointers are to memory that lives through the call, of the sizes that it says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_ref(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// What all kinds of map have in common.
pub(crate) fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data) => data,
        other => panic!("no such kind of map was planned: {other:?}"),
    }
}
