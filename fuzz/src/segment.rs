//! What stands in the store's rows behind a right checksum.

pub fn run(data: &[u8]) {
    let _ = fieldgate::store::is_segment(data);
}
