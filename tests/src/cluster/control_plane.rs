//! etcd, the API server and the controller manager, as processes in a network namespace of their own.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{relay::Relay, tools::Tools};
use crate::lab::{Command, Lab, Node, Process};

/// What the API server listens on, in the control plane's namespace.
const API_PORT: u16 = 6443;

/// Ranges of ClusterIPs, as kubeadm has them for IPv4.
pub const SERVICE_RANGES: &str = "10.96.0.0/12,fd96::/112";

/// How long a program may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The programs of a control plane, ended when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    tools: Tools,
    folder: PathBuf,
    node: Node,
    admin_token: String,
    // In the order in which they end.
    controllers: Option<Process>,
    api: Option<Process>,
    etcd: Option<Process>,
}

impl ControlPlane {
    /// Starts etcd, then the API server, then the controllers, and waits until the API server is ready.
    ///
    /// They run on `node`, which is theirs alone; `folder` takes the certificates, the data, the kubeconfigs and the
    /// logs.
    ///
    /// # Errors
    /// Where a program does not come up; the text ends with the end of its log.
    pub fn start(tools: &Tools, folder: &Path, node: &Node) -> Result<Self> {
        let mut it = Self::without_controllers(tools, folder, node)?;
        it.controllers = Some(it.run_controllers()?);
        Ok(it)
    }

    /// The same without the controllers: what is written stays as it is, EndpointSlices too.
    ///
    /// # Errors
    /// Where a program does not come up; the text ends with the end of its log.
    pub fn without_controllers(tools: &Tools, folder: &Path, node: &Node) -> Result<Self> {
        let admin_token = token();
        let controllers_token = token();
        fs::write(
            folder.join("tokens.csv"),
            format!(
                "{admin_token},admin,admin,\"system:masters\"\n\
                 {controllers_token},system:kube-controller-manager,controllers\n"
            ),
        )?;
        fs::create_dir_all(folder.join("log"))?;
        let mut it = Self {
            tools: tools.clone(),
            folder: folder.to_owned(),
            node: node.clone(),
            admin_token,
            controllers: None,
            api: None,
            etcd: None,
        };
        it.etcd = Some(it.run_etcd()?);
        it.start_api_server()?;
        fs::write(
            it.folder.join("controllers.kubeconfig"),
            kubeconfig(&it.url(), &it.authority(), &controllers_token),
        )?;
        Ok(it)
    }

    /// Writes the administrator's kubeconfig for who reaches the API server at this URL.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, url: &str) -> Result<()> {
        let text = kubeconfig(url, &self.authority(), &self.admin_token);
        Ok(fs::write(path, text)?)
    }

    /// Writes the administrator's kubeconfigs into a folder: one for this machine, with the way to the API server that it
    /// needs, and one for the nodes of the laboratory.
    ///
    /// # Errors
    /// Where no port is free, or a file cannot be written.
    pub fn kubeconfigs(&self, folder: &Path) -> Result<(Relay, PathBuf, PathBuf)> {
        let (relay, url) = self.relay()?;
        let [here, there] = ["admin", "kubeconfig"].map(|name| folder.join(name));
        self.write_kubeconfig(&here, &url)?;
        self.write_kubeconfig(&there, &self.url())?;
        Ok((relay, here, there))
    }

    /// A way to the API server from this machine, and its URL there.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn relay(&self) -> Result<(Relay, String)> {
        let relay = Relay::start(self.node.namespace(), self.target())?;
        let url = format!("https://{}", relay.address());
        Ok((relay, url))
    }

    /// A way to the API server from the nodes of another laboratory, at the address that it has in its own: there too the
    /// first node is `control-plane`.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn relay_in(&self, lab: &Lab) -> Result<Relay> {
        let node = lab.node("control-plane")?;
        let listener = node
            .namespace()
            .run(|| TcpListener::bind(self.target()))??;
        Relay::with_listener(listener, self.node.namespace(), self.target())
    }

    /// Stops the API server at once, as a crash of it does. etcd and the controllers stay.
    pub fn stop_api_server(&mut self) {
        self.api = None;
    }

    /// Starts the API server and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start_api_server(&mut self) -> Result<()> {
        let mut api = self.run_api_server()?;
        let config = self.folder.join("readiness.kubeconfig");
        self.write_kubeconfig(&config, &self.url())?;
        let end = Instant::now() + PATIENCE;
        loop {
            ensure!(
                api.is_running(),
                "the API server ended; its log ends with\n{}",
                end_of(&api)
            );
            let mut probe = self.node.command(self.tools.path("kubectl"))?;
            probe
                .arg("--kubeconfig")
                .arg(&config)
                .args(["get", "--raw", "/readyz"]);
            let probe = probe.output()?;
            if probe.status.success() {
                self.api = Some(api);
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "the API server is not ready after {PATIENCE:?}: {}\n{}",
                String::from_utf8_lossy(&probe.stderr).trim(),
                end_of(&api)
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The programs that the control plane was built into.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// URL of the API server, as nodes and pods reach it.
    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.address())
    }

    /// Address of the API server.
    pub fn address(&self) -> IpAddr {
        self.node.addresses()[0]
    }

    /// The certificate that proves the API server to its clients.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("pki/apiserver.crt")
    }

    /// A line for people who look for the cause of a failure: where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.address(), API_PORT)
    }

    fn run_etcd(&self) -> Result<Process> {
        let mut command = self.node.command(self.tools.path("etcd"))?;
        let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        command
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            // The data is thrown away in the end: no need to wait for a disk.
            .args(["--unsafe-no-fsync", "--log-level=warn"])
            .args(["--listen-client-urls", client])
            .args(["--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer])
            .args(["--initial-advertise-peer-urls", peer])
            .arg(format!("--initial-cluster=default={peer}"));
        self.background("etcd", command)
    }

    fn run_api_server(&self) -> Result<Process> {
        let pki = self.folder.join("pki");
        // The API server makes a key and a certificate of its own where it finds none.
        let key = pki.join("apiserver.key");
        let mut command = self.node.command(self.tools.path("kube-apiserver"))?;
        command
            .args(["--etcd-servers", "http://127.0.0.1:2379"])
            .arg(format!("--secure-port={API_PORT}"))
            .arg(format!("--advertise-address={}", self.address()))
            .arg("--cert-dir")
            .arg(&pki)
            .arg("--token-auth-file")
            .arg(self.folder.join("tokens.csv"))
            .arg("--authorization-mode=Node,RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key)
            .arg(format!("--service-cluster-ip-range={SERVICE_RANGES}"))
            .arg("--allow-privileged");
        self.background("kube-apiserver", command)
    }

    fn run_controllers(&self) -> Result<Process> {
        let kubeconfig = self.folder.join("controllers.kubeconfig");
        let mut command = self
            .node
            .command(self.tools.path("kube-controller-manager"))?;
        command
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--authentication-kubeconfig")
            .arg(&kubeconfig)
            .arg("--authorization-kubeconfig")
            .arg(&kubeconfig)
            .args(["--leader-elect=false", "--use-service-account-credentials"])
            .arg("--service-account-private-key-file")
            .arg(self.folder.join("pki/apiserver.key"))
            .arg("--root-ca-file")
            .arg(self.authority())
            .arg("--bind-address=127.0.0.1")
            // Nothing renews the laboratory's Node leases: a Node stays as the laboratory has made it.
            .arg("--controllers=*,-node-lifecycle-controller");
        self.background("kube-controller-manager", command)
    }

    fn background(&self, name: &str, mut command: Command) -> Result<Process> {
        command.background(&self.logs().join(format!("{name}.log")))
    }
}

/// The text of a kubeconfig.
///
/// The server's certificate is for the control plane's address and for `kubernetes`, so it is checked by that name
/// wherever the connection goes through.
fn kubeconfig(url: &str, authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
current-context: laboratory
clusters:
- name: laboratory
  cluster:
    server: {url}
    certificate-authority: {authority}
    tls-server-name: kubernetes
contexts:
- name: laboratory
  context: {{cluster: laboratory, user: laboratory}}
users:
- name: laboratory
  user: {{token: {token}}}
",
        authority = authority.display()
    )
}

/// A secret that a client shows, new for each control plane.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The last lines of what a program wrote.
fn end_of(process: &Process) -> String {
    let text = process.log();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
