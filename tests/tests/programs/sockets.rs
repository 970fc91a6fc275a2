//! The programs for sockets. The kernel has no test run for them: what they do is tested on the host and in namespaces.

use aya::{EbpfLoader, programs::CgroupSockAddr};
use signpost::dataplane::ebpf::program::{OBJECT, SocketProgram};

/// A tenth of the verifier's limit.
const VERIFIED: u32 = 100_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_verifier_accepts_them_with_little_work() {
    // Kernels before 5.18 lack a helper, and the agent says so by this word.
    for has_set_retval in [1_u32, 0] {
        let mut object = EbpfLoader::new()
            .override_global("HAS_SET_RETVAL", &has_set_retval, true)
            .load(OBJECT)
            .expect("the object loads; this needs root");
        for program in SocketProgram::ALL {
            let name = program.name();
            let loaded: &mut CgroupSockAddr = object
                .program_mut(name)
                .expect("the object has it")
                .try_into()
                .expect("it is one of a cgroup");
            loaded.load().expect("the kernel accepts it");
            let info = loaded.info().expect("a loaded program has information");
            let instructions = info
                .verified_instruction_count()
                .expect("kernels since 5.16 tell");
            println!("{name}: {instructions} verified instructions");
            assert!(instructions > 0 && instructions <= VERIFIED, "{name}");
        }
    }
}
