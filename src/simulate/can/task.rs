//! Sends and hears the frames of simulated nodes: on an interface of the kernel's, or on a bus of this process alone.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use socketcan::{CanSocket, SocketOptions};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::Nodes;
use crate::can::frame::Received;
use crate::can::spec::BusSpec;
use crate::can::task::{Line, Open, describe, open_unfiltered};
use crate::clock::Now;
use crate::config::plan::BusPlan;
use crate::mapping::rule::PointRule;

/// An interface that is not there is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// Nothing to send: an hour is as good as for ever.
const IDLE: Duration = Duration::from_secs(3600);

/// Buses for a gateway in this process: each interface that is opened has the simulated nodes of its bus on it, whatever
/// the kernel has. Must be used inside a `LocalSet`.
pub fn userland(buses: Vec<BusPlan>) -> Open {
    Rc::new(move |spec| {
        let rules = buses.iter().find(|bus| *bus.name() == spec.name).map_or(&[][..], |bus| &bus.rules);
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let nodes = Nodes::of(spec, rules, Now::read().mono);
        #[allow(clippy::disallowed_methods, reason = "one task an opened bus; it ends with the bus")]
        spawn_local(async move {
            // It ends where the gateway closes its end.
            let _ = serve(CanSocket::from(far), nodes).await;
        });
        Ok(CanSocket::from(near))
    })
}

/// Stands in for everybody on the kernel's interface until the handle is aborted. Runs inside a `LocalSet`.
pub fn stand_in(spec: &BusSpec, rules: &[PointRule]) -> JoinHandle<()> {
    let (spec, rules) = (spec.clone(), rules.to_vec());
    #[allow(clippy::disallowed_methods, reason = "one task a simulated bus")]
    spawn_local(async move {
        let mut told = String::new();
        loop {
            let failure = match open(&spec) {
                Ok(socket) => {
                    info!(bus = %spec.name, interface = %spec.interface, "sending CAN frames");
                    told.clear();
                    serve(socket, Nodes::of(&spec, &rules, Now::read().mono)).await
                }
                Err(failure) => failure,
            };
            let text = describe(&failure, &spec.interface);
            if text != told {
                let instead = if failure.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) {
                    "without CAN in the kernel: `fieldgate replay` for a log, `fieldgate demo` for a simulated vehicle"
                        .into()
                } else {
                    format!("without CAN hardware: `ip link add {0} type vcan && ip link set {0} up`", spec.interface)
                };
                warn!(bus = %spec.name, "{text}; {instead}");
                told = text;
            }
            sleep(REOPEN).await;
        }
    })
}

fn open(spec: &BusSpec) -> io::Result<CanSocket> {
    let socket = open_unfiltered(&spec.interface)?;
    if spec.fd {
        socket.set_socket_option_int(socketcan::socket::SOL_CAN_RAW, socketcan::socket::CAN_RAW_FD_FRAMES, 1)?;
    }
    Ok(socket)
}

/// Until the socket fails; what it failed with.
async fn serve(socket: CanSocket, mut nodes: Nodes) -> io::Error {
    let mut line = match Line::new(socket) {
        Ok(line) => line,
        Err(failure) => return failure,
    };
    loop {
        let now = Now::read().mono;
        while let Some(frame) = nodes.poll_transmit(now) {
            let (wire, length) = frame.to_wire();
            match line.send(&wire[..length]) {
                // Nobody reads, or the queue is full: the next one comes soon.
                Ok(()) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
                Err(failure) => return failure.into(),
            }
        }
        let due = nodes.next_due().map_or_else(|| Instant::from_std(now) + IDLE, Instant::from_std);
        tokio::select! {
            () = line.readable() => {}
            () = sleep_until(due) => {}
        }
        match line.receive() {
            Ok(Some(read)) => {
                if let Received::Data(frame) = read.received {
                    nodes.handle(&frame, Now::read().mono);
                }
            }
            Ok(None) => {}
            Err(failure) => return failure,
        }
    }
}
