//! Damage to bytes of the log: flipped bits, zeroed sectors, files that end early.

use super::check::{Case, check, sweep};
use super::fixture::Fixture;

const SECTOR: u64 = 512;
const HEADER: u64 = 4096;

fn flip_all(segment: usize, offsets: impl IntoIterator<Item = u64>) {
    let fixture = Fixture::get();
    let segment = fixture.segment(segment);
    sweep(fixture, offsets.into_iter().map(|offset| Case::flip(fixture, &segment, offset)));
}

/// The two copies of a header in full, the zeros around them in part.
fn header_offsets() -> impl Iterator<Item = u64> {
    (0..HEADER).filter(|offset| offset % 2048 < 136 || offset % 31 == 0)
}

#[test]
fn a_flipped_bit_in_the_header_of_a_sealed_segment() {
    flip_all(0, header_offsets());
    flip_all(1, header_offsets().step_by(5));
}

#[test]
fn a_flipped_bit_in_the_header_of_the_active_segment() {
    flip_all(2, header_offsets());
}

#[test]
fn a_flipped_bit_in_a_footer() {
    let fixture = Fixture::get();
    for index in 0..2 {
        let segment = fixture.segment(index);
        let len = fixture.bytes(&segment).len() as u64;
        let step = if index == 0 { 1 } else { 7 };
        flip_all(index, (fixture.ends[&segment]..len).step_by(step));
    }
}

#[test]
fn a_flipped_bit_in_a_record_of_a_sealed_segment() {
    let fixture = Fixture::get();
    let records = fixture.records_of(&fixture.segment(0));
    let record = records.iter().filter(|record| record.kind == "entry").nth(2).unwrap();
    flip_all(0, record.whole.clone().filter(|offset| offset - record.whole.start < 500));
    let change = records.iter().find(|record| record.kind == "change").unwrap();
    flip_all(0, change.whole.clone());
    flip_all(0, records[0].whole.clone());
}

#[test]
fn a_flipped_bit_in_a_record_of_the_active_segment() {
    let fixture = Fixture::get();
    let records = fixture.records_of(&fixture.active());
    flip_all(2, records[0].whole.clone());
    let change = records.iter().find(|record| record.kind == "change").unwrap();
    flip_all(2, change.whole.clone());
    let last = records.last().unwrap();
    flip_all(2, last.whole.clone().filter(|offset| offset - last.whole.start < 500));
}

#[test]
fn a_flipped_bit_anywhere_in_the_log() {
    let fixture = Fixture::get();
    for (index, segment) in fixture.segments().iter().enumerate() {
        flip_all(index, (0..fixture.bytes(segment).len() as u64).step_by(211));
    }
}

#[test]
fn a_flipped_bit_behind_the_records_of_the_active_segment() {
    let fixture = Fixture::get();
    let segment = fixture.active();
    let len = fixture.bytes(&segment).len() as u64;
    flip_all(2, (fixture.ends[&segment]..len).step_by(97));
}

#[test]
fn a_zeroed_sector() {
    let fixture = Fixture::get();
    for segment in fixture.segments() {
        let len = fixture.bytes(&segment).len() as u64;
        let sectors = (0..len).step_by(512).map(|start| start..(start + SECTOR).min(len));
        sweep(fixture, sectors.map(|sector| Case::zero(fixture, &segment, sector)));
    }
}

#[test]
fn a_segment_that_ends_early() {
    let fixture = Fixture::get();
    for segment in fixture.segments() {
        let len = fixture.bytes(&segment).len() as u64;
        let borders = fixture.records_of(&segment).into_iter().flat_map(|record| {
            let (start, end) = (record.whole.start, record.whole.end);
            [start, start + 1, start + 39, start + 40, end - 1]
        });
        let mut cuts: Vec<u64> = (0..len).step_by(64 * 7).chain(borders).collect();
        cuts.retain(|cut| *cut < len);
        sweep(fixture, cuts.into_iter().map(|cut| Case::cut(fixture, &segment, cut)));
    }
}

#[test]
fn a_footer_that_is_cut_off() {
    let fixture = Fixture::get();
    for index in 0..2 {
        let segment = fixture.segment(index);
        check(fixture, &Case::cut(fixture, &segment, fixture.ends[&segment]));
    }
}
