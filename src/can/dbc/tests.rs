use super::*;
use proptest::prelude::*;

const FILE: &str = r#"VERSION ""

NS_ :

BS_:

BU_: ECU

BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 Vector__XXX
 SG_ Orphan : 0|8@1+ (1,0) [0|0] "" Vector__XXX

BO_ 1001 VehicleSpeed: 8 ECU
 SG_ Speed : 23|16@0+ (0.01,0) [0|250] "km/h" Vector__XXX
 SG_ Gear : 0|3@1- (1,0) [0|0] "" Vector__XXX
 SG_ Beyond : 60|8@1+ (1,0) [0|0] "" Vector__XXX

BO_ 2566844672 CCVS1: 8 ECU
 SG_ WheelBasedVehicleSp : 8|16@1+ (0.00390625,0) [0|250] "km/h" Vector__XXX

BO_ 513 Muxed: 8 ECU
 SG_ Mode M : 0|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Sub m1M : 8|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Deep m3 : 16|32@1- (1,0) [0|0] "" Vector__XXX
 SG_ Other M : 40|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Plain m2 : 8|8@1+ (1,0) [0|0] "" Vector__XXX

BO_ 536870928 TooWide: 8 ECU
 SG_ X : 0|8@1+ (1,0) [0|0] "" Vector__XXX

CM_ SG_ 1001 Speed "At the wheels";
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_ SG_ "SystemSignalLongSymbol" STRING ;
BA_DEF_DEF_ "VFrameFormat" "StandardCAN";
BA_DEF_DEF_ "SystemSignalLongSymbol" "";
BA_ "VFrameFormat" BO_ 2566844672 3;
BA_ "SystemSignalLongSymbol" SG_ 2566844672 WheelBasedVehicleSp "WheelBasedVehicleSpeedWithALongName";
VAL_ 1001 Gear 0 "neutral" -1 "reverse" ;
SIG_VALTYPE_ 513 Deep : 1;
SG_MUL_VAL_ 513 Sub Mode 1-1;
SG_MUL_VAL_ 513 Other Mode 4-4;
SG_MUL_VAL_ 513 Deep Sub 3-3, 5-7;
"#;

#[test]
fn a_message_is_ready_to_compile() {
    let file = parse(FILE.as_bytes()).unwrap();
    let speed = file.message("VehicleSpeed").unwrap().signal("Speed").unwrap();
    assert_eq!(speed.layout, Layout::new(23, 16, BitOrder::Big, Number::Unsigned).unwrap());
    assert_eq!(
        (speed.factor, speed.unit.as_deref(), speed.comment.as_deref()),
        (0.01, Some("km/h"), Some("At the wheels"))
    );
    assert_eq!(speed.line, 13);
    let gear = file.message("VehicleSpeed").unwrap().signal("Gear").unwrap();
    assert_eq!(gear.map[&-1].as_ref(), "reverse");
    assert_eq!(gear.layout.number(), Number::Signed);
}

#[test]
fn a_j1939_message_is_found_by_its_group_and_its_signal_by_its_long_name() {
    let file = parse(FILE.as_bytes()).unwrap();
    let message = file.message("CCVS1").unwrap();
    assert_eq!(message.from, FrameMatch::Pgn { pgn: 65265, source: None });
    assert!(message.signal("WheelBasedVehicleSpeedWithALongName").is_some());
    assert!(message.signal("WheelBasedVehicleSp").is_some());
}

#[test]
fn a_signal_under_two_multiplexors_names_both() {
    let file = parse(FILE.as_bytes()).unwrap();
    let message = file.message("Muxed").unwrap();
    let mode = message.signal("Mode").unwrap().layout;
    let sub = message.signal("Sub").unwrap();
    assert_eq!(sub.when, [Selector { layout: mode, ranges: vec![(1, 1)] }]);
    let deep = message.signal("Deep").unwrap();
    assert_eq!(deep.layout.number(), Number::F32);
    assert_eq!(
        deep.when,
        [
            Selector { layout: sub.layout, ranges: vec![(3, 3), (5, 7)] },
            Selector { layout: mode, ranges: vec![(1, 1)] }
        ]
    );
    let other = message.signal("Other").unwrap();
    assert_eq!(other.when, [Selector { layout: mode, ranges: vec![(4, 4)] }], "written as a plain multiplexor");
    assert_eq!(message.signal("Plain").unwrap().when, [Selector { layout: mode, ranges: vec![(2, 2)] }]);
}

#[test]
fn what_makes_no_sense_is_left_out_and_said_with_its_line() {
    let file = parse(FILE.as_bytes()).unwrap();
    let skipped: Vec<_> =
        file.skipped.iter().map(|skip| (skip.line, skip.message.as_str(), skip.signal.as_deref())).collect();
    assert_eq!(skipped, [(15, "VehicleSpeed", Some("Beyond")), (27, "TooWide", None)]);
    assert_eq!(file.skipped[1].reason, SkipReason::Identifier(536870928));
    assert!(file.message(ORPHANS).is_none());
}

#[test]
fn a_signal_can_be_heard_and_set_with_its_multiplexors() {
    let file = parse(FILE.as_bytes()).unwrap();
    let group = file.message("CCVS1").unwrap();
    let heard = group.heard(&group.signals[0], Some(3));
    assert_eq!(heard.from, FrameMatch::Pgn { pgn: 65265, source: Some(3) });
    assert_eq!(group.commanded(&group.signals[0], None).unwrap().initial, 0xFF);
    let message = file.message("Muxed").unwrap();
    let (mode, sub) = (message.signal("Mode").unwrap().layout, message.signal("Sub").unwrap().layout);
    let set = message.commanded(message.signal("Deep").unwrap(), None).unwrap();
    assert_eq!(set.set, [(sub, 3), (mode, 1)]);
    assert_eq!((set.frame, set.length), (CanId::standard(513).unwrap(), 8));
}

#[test]
fn text_of_windows_is_read() {
    let file = FILE.replace("km/h", "\u{b0}C");
    let bytes: Vec<u8> = file.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
    let unit = parse(&bytes).unwrap().message("VehicleSpeed").unwrap().signal("Speed").unwrap().unit.clone();
    assert_eq!(unit.as_deref(), Some("\u{b0}C"));
}

#[test]
fn a_mistake_in_the_file_is_shown_where_it_is() {
    let broken = FILE.replace(" SG_ Speed : 23|16@0+", " SG_ Speed : 23|sixteen@0+");
    assert!(
        matches!(parse(broken.as_bytes()), Err(DbcError::Syntax { line: 12..=13, .. })),
        "{:?}",
        parse(broken.as_bytes())
    );
}

proptest! {
    #[test]
    fn no_file_is_too_strange(cut in 0usize..FILE.len(), byte: u8) {
        let mut bytes = FILE.as_bytes().to_vec();
        bytes[cut] = byte;
        let _ = parse(&bytes);
        let _ = parse(&bytes[..cut]);
    }
}

#[test]
fn an_identifier_without_the_mark_of_29_bits_is_taken_for_one_where_it_can_be_nothing_else() {
    let file = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: ECU\n\n\
        BO_ 314255271 Camera: 8 ECU\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" ECU\n\n\
        BO_ 69642 One: 8 ECU\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" ECU\n\n\
        BO_ 4106 Two: 8 ECU\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" ECU\n\n\
        VAL_ 314255271 A 1 \"on\" ;\nVAL_ 69642 A 1 \"one\" ;\n";
    let file = parse(file.as_bytes()).unwrap();
    let camera = file.message("Camera").unwrap();
    assert_eq!(camera.id, CanId::extended(0x12BB_27A7).unwrap());
    assert_eq!(camera.signals[0].map[&1].as_ref(), "on");
    let left_out: Vec<_> = file.skipped.iter().map(|skip| skip.message.as_str()).collect();
    assert_eq!(left_out, ["One", "Two"], "what is said of one cannot be told from what is said of the other");
}
