//! Answers to one request in the three framings, and the values in them.

use fieldgate::modbus::codec;
use fieldgate::modbus::frame::{Progress, ascii_answer, rtu, rtu_answer, tcp_frame};
use fieldgate::modbus::pdu::{Answer, read, read_answer};
use fieldgate::modbus::spec::{ByteOrder, DataType, Table};
use tokio_modbus::Request;

const UNIT: u8 = 17;

pub fn run(data: &[u8]) {
    let &[mode, address, count, ref received @ ..] = data else { return };
    let request = request(mode, u16::from(address), u16::from(count % 125) + 1);
    // As they are, and behind what only a right checksum lets through.
    let answers = [
        answer(rtu_answer(received, UNIT, &request)),
        answer(rtu_answer(&rtu(UNIT, received), UNIT, &request)),
        answer(ascii_answer(received, UNIT, &request)),
        tcp_frame(received).ok().flatten().and_then(|frame| read_answer(&request, frame.pdu).ok()),
        read_answer(&request, received).ok(),
    ];
    for answer in answers.into_iter().flatten() {
        judge(&request, &answer);
    }
}

fn request(mode: u8, address: u16, count: u16) -> Request<'static> {
    match mode % 8 {
        0 => read(Table::Coil, address, count),
        1 => read(Table::Discrete, address, count),
        2 => read(Table::Input, address, count),
        3 => Request::WriteSingleCoil(address, count & 1 == 0),
        4 => Request::WriteSingleRegister(address, count),
        5 => Request::WriteMultipleRegisters(address, vec![1; usize::from(count.min(123))].into()),
        6 => Request::MaskWriteRegister(address, count, 7),
        _ => read(Table::Holding, address, count),
    }
}

fn answer(progress: Progress) -> Option<Answer> {
    if let Progress::Answer(answer) = progress { Some(answer) } else { None }
}

/// A value is never another register's: there are as many as were asked for.
fn judge(request: &Request<'_>, answer: &Answer) {
    match (request, answer) {
        (Request::ReadCoils(_, count) | Request::ReadDiscreteInputs(_, count), Answer::Bits(bits)) => {
            assert_eq!(bits.len(), usize::from(*count));
        }
        (Request::ReadHoldingRegisters(_, count) | Request::ReadInputRegisters(_, count), Answer::Registers(words)) => {
            assert_eq!(words.len(), usize::from(*count));
            decode(words);
        }
        (_, Answer::Bits(_) | Answer::Registers(_)) => panic!("another kind of values: {request:?} {answer:?}"),
        _ => {}
    }
}

fn decode(words: &[u16]) {
    use DataType::{Bcd16, Bcd32, Bool, F32, F64, I16, I64, U32};
    for kind in [Bool, I16, U32, F32, I64, F64, Bcd16, Bcd32] {
        for order in [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba] {
            let taken = &words[..usize::from(kind.registers()).min(words.len())];
            let Ok(value) = codec::decode(kind, order, taken) else { continue };
            if !matches!(kind, Bool | F32 | F64) {
                assert_eq!(codec::encode(kind, order, &value).as_deref(), Ok(taken), "{kind:?} {order:?}");
            }
        }
    }
}
