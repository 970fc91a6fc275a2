//! Tests in network namespaces, with real sockets and real programs. They need root: `cargo xtask test`.

mod laboratory;
