//! The task that owns a CAN socket: opens it, reads and writes frames, opens it again.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeValLike;
use socketcan::{CanFilter, CanSocket, Socket, SocketOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::bus::Bus;
use super::filter::filters;
use super::frame::{self, ERROR_CLASSES, Received};
use super::spec::BusSpec;
use crate::clock::{Now, UnixMs};
use crate::command::Command;
use crate::driver::{BusEvent, BusStatus, ControllerState, LinkState};
use crate::pulse::{self, Pulse};
use crate::sample::BusId;

/// Tries to open the interface come at growing intervals up to this: it has no event for "up again".
const REOPEN_MIN: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(1);
/// A full transmit queue does not become writable (ENOBUFS): it is tried again after about eight frames' time at 1 Mbit/s.
const RETRY: Duration = Duration::from_millis(1);
/// Frames handled before samples are sent on and commands looked at.
const BATCH: usize = 256;
/// Of the kernel's receive queue; at 1 Mbit/s over a second of frames. The kernel cuts it to what it allows.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than any frame, so that what is no frame is seen to be none.
const READ_BYTES: usize = 128;

/// Makes the socket of a bus.
pub type Open = Rc<dyn Fn(&BusSpec) -> io::Result<CanSocket>>;

/// Drives the bus until `commands` closes or nobody listens to `events` any more.
pub async fn run(spec: BusSpec, bus: BusId, events: mpsc::Sender<BusEvent>, commands: mpsc::Receiver<Command>) {
    run_on(spec, bus, events, commands, Pulse::new(Now::read()), open).await;
}

/// As [`run`], on sockets that `open` makes: any that keeps the bounds of messages does, such as one end of a Unix
/// SEQPACKET pair where the kernel has no CAN. What is written and read is `struct can_frame` or `struct canfd_frame`.
/// `pulse` is late where it hangs: on a gateway that takes no events, or in itself.
pub async fn run_on(
    spec: BusSpec,
    bus: BusId,
    events: mpsc::Sender<BusEvent>,
    commands: mpsc::Receiver<Command>,
    pulse: Pulse,
    open: impl FnMut(&BusSpec) -> io::Result<CanSocket>,
) {
    let now = Now::read();
    let core = Bus::new(&spec, bus, now);
    let status = core.status();
    let alarm = (core.link_state(), core.controller_state());
    let mut task = Task {
        spec,
        bus,
        core,
        events,
        commands,
        pulse,
        open,
        line: None,
        reopen: (Instant::from_std(now.mono), REOPEN_MIN),
        retry: None,
        told: (status, Instant::from_std(now.mono)),
        alarm,
    };
    // Ends where the gateway has gone; there is nobody left to tell.
    while task.turn().await.is_some() {}
}

struct Task<F> {
    spec: BusSpec,
    bus: BusId,
    core: Bus,
    events: mpsc::Sender<BusEvent>,
    commands: mpsc::Receiver<Command>,
    pulse: Pulse,
    open: F,
    line: Option<Line>,
    /// When to try next, and how long to wait after that.
    reopen: (Instant, Duration),
    retry: Option<Instant>,
    /// The status told last, and when.
    told: (BusStatus, Instant),
    /// What is told at once when it changes.
    alarm: (LinkState, ControllerState),
}

enum Event {
    Command(Option<Command>),
    Readable,
    Time,
}

impl<F: FnMut(&BusSpec) -> io::Result<CanSocket>> Task<F> {
    /// `None`: it is over.
    async fn turn(&mut self) -> Option<()> {
        let now = Now::read();
        self.pulse.beat(now, pulse::IDLE);
        self.open_if_due(now);
        self.core.handle_timeout(now);
        self.transmit(now);
        self.tell(now).await?;
        match self.select(now).await {
            Event::Command(command) => self.core.handle_command(command?, Now::read()),
            Event::Readable => self.receive(),
            Event::Time => {}
        }
        Some(())
    }

    async fn select(&mut self, now: Now) -> Event {
        let due = self.core.next_due().map(Instant::from_std);
        let reopen = self.line.is_none().then_some(self.reopen.0);
        let status = (self.core.status() != self.told.0).then_some(self.told.1 + STATUS_INTERVAL);
        let idle = Instant::from_std(now.mono) + pulse::IDLE;
        let at = [due, reopen, self.retry, status].into_iter().flatten().fold(idle, Instant::min);
        let line = self.line.as_ref();
        let readable = async {
            match line {
                Some(line) => line.readable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv(), if self.core.accepts_commands() => Event::Command(command),
            () = readable => Event::Readable,
            () = tokio::time::sleep_until(at) => Event::Time,
        }
    }

    fn open_if_due(&mut self, now: Now) {
        if self.line.is_some() || self.reopen.0.into_std() > now.mono {
            return;
        }
        match (self.open)(&self.spec).and_then(Line::new) {
            Ok(line) => {
                self.line = Some(line);
                self.reopen.1 = REOPEN_MIN;
                self.core.link_up(now);
            }
            Err(error) => self.lost(&error, now),
        }
    }

    fn lost(&mut self, error: &io::Error, now: Now) {
        self.line = None;
        self.retry = None;
        self.reopen.0 = Instant::from_std(now.mono) + self.reopen.1;
        self.reopen.1 = (self.reopen.1 * 2).min(REOPEN_MAX);
        self.core.link_down(describe(error, &self.spec.interface), now);
    }

    fn transmit(&mut self, now: Now) {
        if self.retry.is_some_and(|at| at.into_std() > now.mono) {
            return;
        }
        self.retry = None;
        while let Some(line) = &self.line
            && let Some(frame) = self.core.poll_transmit(now)
        {
            let (wire, length) = frame.to_wire();
            match line.send(&wire[..length]) {
                Ok(()) => self.core.transmitted(now),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {
                    self.retry = Some(Instant::from_std(now.mono) + RETRY);
                    return;
                }
                Err(Errno::EINVAL | Errno::EMSGSIZE) => self.core.refused(),
                Err(error) => self.lost(&error.into(), now),
            }
        }
    }

    fn receive(&mut self) {
        let now = Now::read();
        for _ in 0..BATCH {
            let Some(line) = &mut self.line else { return };
            match line.receive() {
                Ok(Some(read)) => {
                    if read.dropped > 0 {
                        self.core.handle_overflow(read.dropped);
                    }
                    self.core.handle(&read.received, read.at.unwrap_or(now.wall), now);
                }
                Ok(None) => return,
                Err(error) => return self.lost(&error, now),
            }
        }
    }

    /// A change of the link's or the controller's state, once.
    fn log(&self, status: &BusStatus) {
        let (bus, interface) = (&self.spec.name, &self.spec.interface);
        match (status.state, frame::describe(self.core.controller_state()), &status.last_error) {
            (LinkState::Down, _, Some(error)) => warn!(%bus, "{error}"),
            (LinkState::Up, None, _) => info!(%bus, "{interface} is up"),
            (_, Some(state), _) => warn!(%bus, "{interface}: {state}"),
            (LinkState::Down | LinkState::Connecting, None, _) => {}
        }
    }

    /// Everything that there is to tell; waits where the gateway is behind, and the kernel's queue takes up the frames.
    async fn tell(&mut self, now: Now) -> Option<()> {
        for outcome in self.core.take_outcomes() {
            self.events.send(BusEvent::Outcome(self.bus, outcome)).await.ok()?;
        }
        let samples = self.core.take_samples();
        if !samples.is_empty() {
            self.events.send(BusEvent::Samples(self.bus, samples)).await.ok()?;
        }
        let status = self.core.status();
        let (told, at) = &self.told;
        let alarm = (self.core.link_state(), self.core.controller_state());
        let changed = alarm != self.alarm;
        if changed {
            self.log(&status);
        }
        if changed || (status != *told && at.into_std() + STATUS_INTERVAL <= now.mono) {
            self.alarm = alarm;
            self.told = (status.clone(), Instant::from_std(now.mono));
            self.events.send(BusEvent::Status(self.bus, status)).await.ok()?;
        }
        Some(())
    }
}

/// An open socket.
pub struct Line {
    socket: AsyncFd<CanSocket>,
    control: Vec<u8>,
    /// Frames that the kernel has dropped since the socket was opened; it counts up and wraps.
    dropped: u32,
}

/// A frame, when the kernel got it where it tells, and how many it dropped since the last read.
pub struct Read {
    pub received: Received,
    pub at: Option<UnixMs>,
    pub dropped: u32,
}

impl Line {
    /// # Errors
    /// The system's, also that of an interface that is down.
    pub fn new(socket: CanSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Times and counts are welcome where the kernel has them, and missed nowhere else.
        let _ = setsockopt(&socket, sockopt::ReceiveTimestampns, &true);
        let _ = setsockopt(&socket, sockopt::RxqOvfl, &1);
        // An interface that is down may be bound to; it says so only here.
        if let Some(error) = socket.as_raw_socket().take_error()? {
            return Err(error);
        }
        #[allow(
            deprecated,
            reason = "its replacement is unsafe; a CanSocket owns its one descriptor, as that asks for"
        )]
        let socket = AsyncFd::with_interest(socket, wakes())?;
        Ok(Self { socket, control: nix::cmsg_space!([i64; 2], u32), dropped: 0 })
    }

    /// Until there may be something to read.
    pub async fn readable(&self) {
        // An error shows in the read that follows.
        let _ = self.socket.ready(wakes()).await;
    }

    /// `None`: there is nothing more to read now.
    ///
    /// # Errors
    /// The system's: the interface went down, or away.
    pub fn receive(&mut self) -> io::Result<Option<Read>> {
        let mut buffer = [0; READ_BYTES];
        // One kind of readiness at a time: tokio takes none for both together.
        let mut read = Err(io::ErrorKind::WouldBlock.into());
        for interest in [Interest::READABLE, Interest::ERROR] {
            read = self.socket.try_io(interest, |socket| read_message(socket, &mut buffer, &mut self.control));
            if !matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        let (length, at, total) = match read {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if length == 0 {
            return Err(Errno::ENODEV.into());
        }
        let dropped = total.map_or(0, |total| total.wrapping_sub(std::mem::replace(&mut self.dropped, total)));
        Ok(Some(Read { received: Received::from_wire(&buffer[..length]), at, dropped }))
    }

    /// # Errors
    /// `ENOBUFS` and `EAGAIN` where the queue is full; else the frame was refused, or the interface is gone.
    pub fn send(&self, wire: &[u8]) -> nix::Result<()> {
        send(self.socket.get_ref().as_raw_fd(), wire, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).map(drop)
    }
}

/// An interface that goes down or away shows as an error alone: there is nothing to read.
fn wakes() -> Interest {
    Interest::READABLE | Interest::ERROR
}

/// Bytes read, the kernel's time of the frame, and the frames dropped since the socket was opened.
fn read_message(
    socket: &CanSocket,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, Option<UnixMs>, Option<u32>)> {
    let mut parts = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
    let (mut at, mut total) = (None, None);
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmTimestampns(time) = control {
            at = Some(UnixMs(time.num_milliseconds()));
        } else if let ControlMessageOwned::RxqOvfl(count) = control {
            total = Some(count);
        }
    }
    Ok((message.bytes, at, total))
}

/// # Errors
/// `EAFNOSUPPORT` where the kernel has no CAN, whatever interfaces it has; else the system's.
pub fn open_unfiltered(interface: &str) -> io::Result<CanSocket> {
    if let Err(Errno::EAFNOSUPPORT) = socket(AddressFamily::Can, SockType::Raw, SockFlag::SOCK_CLOEXEC, None) {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    CanSocket::open(interface)
}

/// The interface's socket: filters computed from the points, error frames, CAN FD where asked for.
///
/// # Errors
/// The system's: no such interface, not CAN, no permission.
pub fn open(spec: &BusSpec) -> io::Result<CanSocket> {
    let socket = open_unfiltered(&spec.interface)?;
    let filters: Vec<_> = filters(&spec.points).iter().map(|filter| CanFilter::new(filter.id, filter.mask)).collect();
    if filters.is_empty() {
        socket.set_filter_drop_all()?;
    } else {
        socket.set_filters(&filters)?;
    }
    socket.set_error_filter(ERROR_CLASSES)?;
    if spec.fd {
        socket.set_socket_option_int(socketcan::socket::SOL_CAN_RAW, socketcan::socket::CAN_RAW_FD_FRAMES, 1)?;
    }
    // Beyond the system's limit with the right to do so (CAP_NET_ADMIN), else as far as it goes.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
    }
    Ok(socket)
}

/// What happened and what to do about it.
pub fn describe(error: &io::Error, interface: &str) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENODEV) if if_nametoindex(interface).is_ok() => {
            format!("{interface} is not a CAN interface; `ip link show type can` lists those that are")
        }
        Some(Errno::ENODEV | Errno::ENXIO) => format!(
            "no CAN interface {interface} here: is the adapter plugged in and its driver loaded? `ip link show type can` lists them"
        ),
        Some(Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => {
            format!(
                "cannot open {interface}: this kernel has no CAN; `modprobe can_raw`, or a kernel with CONFIG_CAN_RAW"
            )
        }
        Some(Errno::ENETDOWN) => format!("{interface} is down: `ip link set {interface} up type can bitrate 500000`"),
        _ => format!("{interface}: {error}"),
    }
}

#[cfg(test)]
mod tests;
