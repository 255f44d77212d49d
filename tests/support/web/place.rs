//! The address at which a test server listens: on a test host, or on loopback of this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::support::host::Host;
use crate::support::private_net::in_namespace;
use crate::support::process::PATIENCE;

/// An address, and the network namespace that has it.
#[derive(Debug, Clone)]
pub struct Place {
    namespace: Option<String>,
    address: Ipv4Addr,
}

impl Place {
    /// Loopback of the test process.
    pub fn loopback() -> Self {
        Self { namespace: None, address: Ipv4Addr::LOCALHOST }
    }

    /// A listener on a free port. It stays in its namespace, whichever thread uses it.
    pub fn listen(&self) -> TcpListener {
        let address = (self.address, 0);
        match &self.namespace {
            Some(namespace) => in_namespace(namespace, move || TcpListener::bind(address).unwrap()),
            None => TcpListener::bind(address).unwrap(),
        }
    }

    /// A connection from this place.
    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        let connect = move || TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        match &self.namespace {
            Some(namespace) => in_namespace(namespace, connect),
            None => connect(),
        }
    }

    /// A command that runs a program at this place, with an environment that contains only `PATH`.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program.as_ref());
                command
            }
            None => Command::new(program.as_ref()),
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        command
    }
}

impl From<&Host> for Place {
    fn from(host: &Host) -> Self {
        Self { namespace: Some(host.namespace().to_owned()), address: host.addr() }
    }
}
