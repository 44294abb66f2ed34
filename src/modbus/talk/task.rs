//! What a bus does while its link is there: one exchange after the other on a line, several at once on a connection.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep_until;

use crate::clock::Now;
use crate::modbus::line::task::Line;
use crate::modbus::pdu::Answer;
use crate::modbus::schedule::{Action, Failure, Job};
use crate::modbus::spec::Framing;
use crate::modbus::task::{Driver, Ended, Gone};
use crate::modbus::tcp::task::Connection;

impl Driver {
    /// Until there is something to ask: a peer that closes idle connections is left in peace.
    pub(crate) async fn until_due(&mut self) -> Result<(), Gone> {
        while self.held.is_none() {
            let now = Now::read();
            let action = self.schedule.next(now);
            self.tell().await?;
            self.keep_status(now).await?;
            match action {
                Action::Send(job) => self.held = Some(job),
                Action::Wait(until) => {
                    let until = self.wake_up(until, None);
                    tokio::select! {
                        command = self.commands.recv(), if self.schedule.takes_commands() =>
                            self.schedule.command(command.ok_or(Gone)?),
                        () = sleep_until(until.into()) => {}
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn serve_converter<S>(&mut self, stream: S, framing: Framing) -> Result<Ended, Gone>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let line = Line::new(stream, framing, self.schedule.timing(), Some(self.spec.timeout));
        self.serve_line(line).await
    }

    pub(crate) async fn serve_line<S>(&mut self, mut line: Line<S>) -> Result<Ended, Gone>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.up(Now::read()).await?;
        loop {
            if !self.take_commands() {
                return Ok(Ended::Closed);
            }
            let now = Now::read();
            let action = self.held.take().map_or_else(|| self.schedule.next(now), Action::Send);
            self.tell().await?;
            self.keep_status(now).await?;
            let heard = match action {
                Action::Send(job) => self.exchange(&mut line, job).await,
                Action::Wait(until) => self.listen(&mut line, until).await,
            };
            self.hear_strays(&mut line);
            match heard {
                Ok(true) => {}
                Ok(false) => return Ok(Ended::Closed),
                Err(_) if line.is_converter() && line.has_served() => {
                    self.schedule.interrupted(Now::read());
                    return Ok(Ended::Stale);
                }
                Err(error) => return Ok(Ended::Lost(error)),
            }
            self.tell().await?;
        }
    }

    /// False where the gateway wants the bus to end.
    async fn exchange<S>(&mut self, line: &mut Line<S>, job: Job) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let landed = {
            let mut exchange = std::pin::pin!(line.exchange(&job));
            loop {
                tokio::select! {
                    biased;
                    landed = &mut exchange => break landed?,
                    command = self.commands.recv(), if self.schedule.takes_commands() => match command {
                        Some(command) => self.schedule.command(command),
                        None => return Ok(false),
                    },
                }
            }
        };
        // Before the answer: what was late is of an earlier request.
        self.hear_strays(line);
        self.land(job.ticket, landed);
        Ok(true)
    }

    fn hear_strays<S>(&mut self, line: &mut Line<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if line.take_stray() {
            self.schedule.discarded();
        }
        for heard in line.take_frames() {
            self.schedule.overheard(&heard, Now::read().mono);
        }
    }

    async fn listen<S>(&mut self, line: &mut Line<S>, until: Option<Instant>) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let until = self.wake_up(until, None);
        tokio::select! {
            command = self.commands.recv(), if self.schedule.takes_commands() => match command {
                Some(command) => self.schedule.command(command),
                None => return Ok(false),
            },
            heard = line.idle() => heard?,
            () = sleep_until(until.into()) => {}
        }
        Ok(true)
    }

    pub(crate) async fn serve_tcp<S>(&mut self, mut connection: Connection<S>) -> Result<Ended, Gone>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.up(Now::read()).await?;
        if let Some(job) = self.held.take() {
            connection.request(job, Now::read());
        }
        loop {
            if !self.take_commands() {
                return Ok(Ended::Closed);
            }
            let now = Now::read();
            let until = loop {
                match self.schedule.next(now) {
                    Action::Send(job) => connection.request(job, now),
                    Action::Wait(until) => break until,
                }
            };
            self.tell().await?;
            self.keep_status(now).await?;
            if let Err(error) = connection.send().await {
                return self.hung_up(&connection, error).await;
            }
            let until = self.wake_up(until, connection.next_deadline());
            tokio::select! {
                received = connection.receive() => {
                    if let Err(error) = received {
                        return self.hung_up(&connection, error).await;
                    }
                    if let Err(error) = self.take_landed(&mut connection) {
                        return self.out_of_step(&mut connection, error).await;
                    }
                }
                command = self.commands.recv(), if self.schedule.takes_commands() => match command {
                    Some(command) => self.schedule.command(command),
                    None => return Ok(Ended::Closed),
                },
                () = sleep_until(until.into()) => {}
            }
            let now = Now::read();
            for ticket in connection.overdue(now) {
                self.schedule.failed(ticket, Failure::Timeout, now);
            }
            self.tell().await?;
            if connection.is_silent() {
                return Ok(Ended::Stale);
            }
        }
    }

    /// Some peers close after each answer, or when idle: what is under way is asked again.
    async fn hung_up<S>(&mut self, connection: &Connection<S>, error: io::Error) -> Result<Ended, Gone>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !connection.has_served() {
            return Ok(Ended::Lost(error));
        }
        tracing::debug!(bus = %self.spec.name, "{error}");
        self.schedule.interrupted(Now::read());
        self.tell().await?;
        Ok(Ended::Stale)
    }

    /// What is under way has failed, and the next connection is asked again.
    async fn out_of_step<S>(&mut self, connection: &mut Connection<S>, error: io::Error) -> Result<Ended, Gone>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tracing::debug!(bus = %self.spec.name, "{error}");
        self.schedule.discarded();
        let now = Now::read();
        for ticket in connection.abandon() {
            self.schedule.failed(ticket, Failure::Discarded, now);
        }
        self.tell().await?;
        // A peer that never spoke Modbus is not asked again and again without a pause.
        Ok(if connection.has_answered() { Ended::Stale } else { Ended::Lost(error) })
    }

    fn take_landed<S>(&mut self, connection: &mut Connection<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        while let Some((ticket, landed)) = connection.landed()? {
            match ticket {
                Some(ticket) => self.land(ticket, landed),
                None => self.schedule.discarded(),
            }
        }
        Ok(())
    }

    fn land(&mut self, ticket: u64, landed: Result<Answer, Failure>) {
        let now = Now::read();
        match landed {
            Ok(answer) => self.schedule.answered(ticket, &answer, now),
            Err(failure) => self.schedule.failed(ticket, failure, now),
        }
    }
}
