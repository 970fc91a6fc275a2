//! Tests in network namespaces, with real sockets and real programs. They need root: `cargo xtask test`.

mod api_server;
mod cached;
mod changes;
mod errors;
mod fast_path;
mod host;
mod laboratory;
mod migration;
mod monitor;
mod names;
mod never_stops;
mod oracle;
mod outside;
mod pod_sockets;
mod policies;
mod resolvers;
mod restarts;
mod rolling;
mod service;
mod small;
mod ways_in;
