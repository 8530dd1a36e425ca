use super::*;
use crate::kernels::UserOp;

/// Neither commutative nor associative, so every exchange of operands shows.
fn twice_plus() -> UserOp<u16> {
    UserOp::new("twice plus", |all: &mut [u16], next: &[u16]| {
        assert_eq!(all.len(), next.len());
        for (all, next) in all.iter_mut().zip(next) {
            *all = all.wrapping_mul(2).wrapping_add(*next);
        }
    })
}

fn expected(a: &[u8], b: &[u8]) -> Vec<u8> {
    let element = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes);
    let (a, b) = (a.as_chunks().0.iter().map(element), b.as_chunks().0.iter().map(element));
    a.zip(b).flat_map(|(a, b)| a.wrapping_mul(2).wrapping_add(b).to_le_bytes()).collect()
}

#[test]
fn operands_keep_their_places_wherever_the_result_goes() {
    let kernel = Kernel::user(&twice_plus());
    assert!(!kernel.is_commutative());
    for (count, offsets) in [(0, [0; 3]), (1, [1, 2, 3]), (2047, [0; 3]), (6001, [5, 0, 9])] {
        let mut bits = Bits(count as u64);
        let contents = [(); 3].map(|()| bits.elements(DType::U16, count));
        let expected = expected(&contents[0], &contents[1]);
        for out in 0..3 {
            let mut buffers =
                [0, 1, 2].map(|index| Guarded::new(&contents[index], DType::U16, offsets[index]));
            let [a, b, _] = buffers.each_mut().map(Guarded::pointer);
            let to = buffers[out].pointer();
            // SAFETY: three buffers of `count` aligned elements; `to` is one of them.
            unsafe { kernel.reduce(to, a, b, count) };
            assert!(buffers[out].elements() == expected, "{count}, out is operand {out}");
        }
    }
}

#[test]
fn a_fold_goes_from_left_to_right() {
    let kernel = Kernel::user(&twice_plus());
    let count = 5000;
    for inputs in 1..5 {
        let mut bits = Bits(inputs as u64);
        let contents: Vec<_> = (0..inputs).map(|_| bits.elements(DType::U16, count)).collect();
        let folded =
            contents[1..].iter().fold(contents[0].clone(), |all, next| expected(&all, next));
        for out in 0..inputs {
            let mut buffers: Vec<_> =
                contents.iter().map(|content| Guarded::new(content, DType::U16, 1)).collect();
            let pointers: Vec<_> =
                buffers.iter_mut().map(|input| input.pointer().cast_const()).collect();
            let to = buffers[out].pointer();
            // SAFETY: buffers of `count` aligned elements; the output is one of them.
            unsafe { kernel.fold_and_finish(to, &pointers, count, 7) };
            assert!(buffers[out].elements() == folded, "{inputs} inputs, out is {out}");
        }
    }
}
