//! Which build of this program a process runs.
//!
//! Linkers leave a number in the binary that is a digest of what they have linked. Reading it takes
//! microseconds, where a digest of the file itself would take longer than starting the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `PT_NOTE` of the program header, and `NT_GNU_BUILD_ID` of a note: elf(5), and binutils' ld(1).
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// More than any linker writes.
const NOTES_BYTES_MAX: usize = 16 << 10;

/// That of this process, in hexadecimal; `None` if its linker has left none.
pub(crate) fn of_this_process() -> Option<String> {
    let file = File::open("/proc/self/exe").ok()?;
    read(|offset, buffer| file.read_exact_at(buffer, offset)).ok().flatten()
}

/// Finds it in a file that is read by `read_at`. 64-bit, of this machine's byte order, or none.
fn read(read_at: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Option<String>> {
    let mut header = [0; 64];
    read_at(0, &mut header)?;
    let is_64_bit_elf = header.starts_with(b"\x7fELF\x02");
    let (Some(headers_at), Some(size), Some(count)) =
        (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56))
    else {
        return Ok(None);
    };
    if !is_64_bit_elf || size < 56 {
        return Ok(None);
    }
    for number in 0..u64::from(count) {
        let mut segment = [0; 56];
        read_at(headers_at.wrapping_add(number * u64::from(size)), &mut segment)?;
        if u32_at(&segment, 0) != Some(PT_NOTE) {
            continue;
        }
        let (Some(at), Some(length)) = (u64_at(&segment, 8), u64_at(&segment, 32)) else {
            continue;
        };
        let mut notes = vec![0; usize::try_from(length).unwrap_or(0).min(NOTES_BYTES_MAX)];
        read_at(at, &mut notes)?;
        if let Some(id) = in_notes(&notes) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Notes are a name and contents, each as long as a header says and padded to four bytes.
fn in_notes(mut notes: &[u8]) -> Option<String> {
    loop {
        let (name, contents, kind) = (u32_at(notes, 0)?, u32_at(notes, 4)?, u32_at(notes, 8)?);
        let padded = |length: u32| usize::try_from(length).ok()?.checked_next_multiple_of(4);
        let contents_at = padded(name)?.checked_add(12)?;
        let end = contents_at.checked_add(padded(contents)?)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16)? == b"GNU\0" {
            let length = usize::try_from(contents).ok()?;
            let id = notes.get(contents_at..contents_at.checked_add(length)?)?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(end..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_ne_bytes();
        let mut note = [length(name), length(contents), kind.to_ne_bytes()].concat();
        for part in [name, contents] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn it_is_found_among_other_notes() {
        let other = note(b"GNU\0", 1, &[9; 16]);
        let odd = note(b"abcde\0", NT_GNU_BUILD_ID, &[1, 2, 3]);
        let ours = note(b"GNU\0", NT_GNU_BUILD_ID, &[0xab, 0x01, 0xff]);
        assert_eq!(in_notes(&[&other[..], &odd, &ours].concat()), Some("ab01ff".to_owned()));
        assert_eq!(in_notes(&[&other[..], &odd].concat()), None);
        assert_eq!(in_notes(&ours[..ours.len() - 2]), None);
        assert_eq!(in_notes(&[0xff; 40]), None);
    }

    #[test]
    fn whatever_a_file_holds_nothing_breaks() {
        let read_from = |bytes: &[u8]| {
            read(|offset, buffer| {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let from = from.and_then(|from| from.get(..buffer.len()));
                buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            })
        };
        assert!(read_from(b"#!/bin/sh").is_err());
        assert_eq!(read_from(&[0; 64]).ok(), Some(None));
        let mut elf = vec![0xff; 4096];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        assert!(read_from(&elf).is_err(), "headers beyond the end");
        // Two processes of one binary agree.
        assert_eq!(of_this_process(), of_this_process());
    }
}
