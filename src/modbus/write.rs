//! The requests that carry out one command, one after the other.

use super::codec;
use super::pdu::{self, Answer, Request};
use super::spec::{PointSpec, Table, WriteFunction};
use crate::command::{Command, Done, NotDone};
use crate::sample::{Fault, Value};

/// What to do next for a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Send(Request),
    Finished(Result<Done, NotDone>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Reading whether the device holds the value already.
    Compare,
    /// Reading the registers of which some bits are to stay.
    Before,
    Write,
    /// Reading back.
    After,
}

/// A command under way.
#[derive(Clone, Debug)]
pub struct Steps {
    point: PointSpec,
    function: WriteFunction,
    readback: bool,
    stage: Stage,
    /// What each register is to hold, in the bits that `masks` has; of a coil: 0 or 1.
    words: Vec<u16>,
    masks: Vec<u16>,
}

impl Steps {
    /// The command's first request.
    ///
    /// # Errors
    /// [`NotDone`] where the point cannot be written or has no place for the value.
    pub fn start(point: &PointSpec, command: &Command) -> Result<(Self, Request), NotDone> {
        let refused = |fault| NotDone::Fault(fault);
        let write = point.write.ok_or(refused(Fault::IllegalFunction))?;
        let (words, masks) = match point.table {
            Table::Coil => (vec![u16::from(whole(&command.raw).ok_or(refused(Fault::BadValue))? != 0)], vec![u16::MAX]),
            Table::Holding => target(point, &command.raw).ok_or(refused(Fault::BadValue))?,
            Table::Discrete | Table::Input => return Err(refused(Fault::IllegalFunction)),
        };
        let mut steps = Self {
            point: point.clone(),
            function: write.function,
            readback: command.readback,
            stage: Stage::Write,
            words,
            masks,
        };
        let request = if command.unless_equal {
            steps.stage = Stage::Compare;
            steps.read()
        } else {
            steps.change()
        };
        Ok((steps, request))
    }

    /// The first request of the change itself.
    fn change(&mut self) -> Request {
        if self.point.bits.is_some() && self.mask_write().is_none() {
            self.stage = Stage::Before;
            return self.read();
        }
        self.stage = Stage::Write;
        self.write(&self.words)
    }

    /// Whether the request under way changes the device: it is sent once, and not after its time.
    pub fn is_writing(&self) -> bool {
        self.stage == Stage::Write
    }

    /// Whether the device has acknowledged the write.
    pub fn is_written(&self) -> bool {
        self.stage == Stage::After
    }

    /// Takes the answer to the request under way.
    pub fn answered(&mut self, answer: &Answer) -> Next {
        if let Answer::Exception(code) = answer {
            return self.failed(pdu::fault(*code));
        }
        match self.stage {
            Stage::Compare => match self.held(answer) {
                Ok((value, true)) => Next::Finished(Ok(Done { readback: Some(value) })),
                Ok((_, false)) | Err(_) => Next::Send(self.change()),
            },
            Stage::Before => {
                let Answer::Registers(held) = answer else { return self.failed(Fault::BadResponse) };
                let merged = |((held, mask), word): ((&u16, &u16), &u16)| (held & !mask) | word;
                let words: Vec<u16> = held.iter().zip(&self.masks).zip(&self.words).map(merged).collect();
                self.stage = Stage::Write;
                Next::Send(self.write(&words))
            }
            Stage::Write => {
                self.stage = Stage::After;
                match answer {
                    _ if !self.readback => Next::Finished(Ok(Done { readback: None })),
                    // Function code 23 writes first, then reads.
                    Answer::Registers(_) => self.compare(answer),
                    Answer::Written | Answer::Bits(_) | Answer::Exception(_) => Next::Send(self.read()),
                }
            }
            Stage::After => self.compare(answer),
        }
    }

    /// The request under way failed. A write that was acknowledged is done, even where reading back did not work.
    pub fn failed(&self, fault: Fault) -> Next {
        Next::Finished(match self.stage {
            Stage::Compare | Stage::Before | Stage::Write => Err(NotDone::Fault(fault)),
            Stage::After => Ok(Done { readback: None }),
        })
    }

    fn compare(&self, answer: &Answer) -> Next {
        if matches!(answer, Answer::Written | Answer::Exception(_)) {
            return self.failed(Fault::BadResponse);
        }
        Next::Finished(match self.held(answer) {
            Ok((value, true)) => Ok(Done { readback: Some(value) }),
            Ok((value, false)) => Err(NotDone::Mismatch(value)),
            Err(fault) => Err(NotDone::Fault(fault)),
        })
    }

    /// What the device was read to hold, and whether that is what the command asks for.
    fn held(&self, answer: &Answer) -> Result<(Value, bool), Fault> {
        match answer {
            Answer::Bits(bits) => {
                let on = bits.first().copied().unwrap_or(false);
                Ok((Value::Bool(on), self.words.first() == Some(&u16::from(on))))
            }
            Answer::Registers(held) => {
                let value = codec::decode(self.point.data, self.point.order, held);
                let same = |((held, mask), word): ((&u16, &u16), &u16)| held & mask == *word;
                let words = held.len() == self.words.len() && held.iter().zip(&self.masks).zip(&self.words).all(same);
                let meant = codec::decode(self.point.data, self.point.order, &self.words);
                let whole = self.point.bits.is_none() && value.is_ok() && value == meant;
                Ok((value?, words || whole))
            }
            Answer::Written | Answer::Exception(_) => Err(Fault::BadResponse),
        }
    }

    fn read(&self) -> Request {
        pdu::read(self.point.table, self.point.address, u16::try_from(self.words.len()).unwrap_or(1))
    }

    fn write(&self, words: &[u16]) -> Request {
        let address = self.point.address;
        if self.point.table == Table::Coil {
            let on = words.first().is_some_and(|word| *word != 0);
            return match self.function {
                WriteFunction::Multiple => Request::WriteMultipleCoils(address, vec![on].into()),
                WriteFunction::Auto | WriteFunction::Mask | WriteFunction::ReadWrite => {
                    Request::WriteSingleCoil(address, on)
                }
            };
        }
        if let Some(request) = self.mask_write() {
            return request;
        }
        match (self.function, words) {
            (WriteFunction::ReadWrite, words) => {
                let count = u16::try_from(words.len()).unwrap_or(1);
                Request::ReadWriteMultipleRegisters(address, count, address, words.to_vec().into())
            }
            (WriteFunction::Auto | WriteFunction::Mask, [word]) => Request::WriteSingleRegister(address, *word),
            (WriteFunction::Auto | WriteFunction::Mask | WriteFunction::Multiple, words) => {
                Request::WriteMultipleRegisters(address, words.to_vec().into())
            }
        }
    }

    /// Function code 22, where it was asked for and the field lies within one register.
    fn mask_write(&self) -> Option<Request> {
        if self.function != WriteFunction::Mask || self.point.bits.is_none() || self.point.table != Table::Holding {
            return None;
        }
        let mut touched = (0_u16..).zip(&self.masks).zip(&self.words).filter(|((_, mask), _)| **mask != 0);
        let ((offset, mask), word) = touched.next()?;
        touched
            .next()
            .is_none()
            .then(|| Request::MaskWriteRegister(self.point.address.saturating_add(offset), !mask, *word))
    }
}

/// The integer that a value is, as its two's complement.
fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::Bool(on) => Some(u64::from(on)),
        Value::Int(number) => Some(number.cast_unsigned()),
        Value::Uint(number) => Some(number),
        Value::F32(_) | Value::F64(_) | Value::Text(_) => None,
    }
}

/// The registers' new words, and which of their bits are meant.
fn target(point: &PointSpec, raw: &Value) -> Option<(Vec<u16>, Vec<u16>)> {
    let count = usize::from(point.data.registers());
    let Some(bits) = point.bits else {
        let words = codec::encode(point.data, point.order, raw).ok()?;
        let masks = vec![u16::MAX; words.len()];
        return Some((words, masks));
    };
    let field = whole(raw).filter(|field| *field <= bits.mask())?;
    if usize::from(bits.high()) >= count * 16 {
        return None;
    }
    let spread = |field| codec::split(point.order, bits.insert(0, field), count);
    Some((spread(field), spread(bits.mask())))
}
