//! The element loops. Everything here is inlined into one function per (type, operator,
//! instruction set), where the compiler vectorises it.

use std::marker::PhantomData;
use std::{mem, ptr, slice};

use paceline_devices::{bf16, f16};

use super::arithmetic::{Arithmetic, Float, Operator, OrderedBf16, OrderedF16};
use super::halves::{bf16_pair, bf16_pair_values};
use super::level::{Body, GROUP, Level};

/// An element as it is stored, and how it is computed with.
///
/// Only for plain data without padding, for which every bit pattern is a value.
pub(super) trait Lane: Copy {
    /// What the arithmetic is done in.
    type Number: Copy;

    /// An array of elements that are converted together.
    type Group: Copy;

    /// Applies `change` to each number of a group.
    fn change<L: Level>(
        group: Self::Group,
        change: impl Fn(Self::Number) -> Self::Number,
    ) -> Self::Group;

    /// Applies `combine` to each pair of numbers of two groups.
    fn combine<L: Level>(
        a: Self::Group,
        b: Self::Group,
        combine: impl Fn(Self::Number, Self::Number) -> Self::Number,
    ) -> Self::Group;
}

macro_rules! stored_as_computed {
    ($($number:ty),*) => {$(
        impl Lane for $number {
            type Number = Self;
            type Group = [Self; 1];

            #[inline(always)]
            fn change<L: Level>([a]: [Self; 1], change: impl Fn(Self) -> Self) -> [Self; 1] {
                [change(a)]
            }

            #[inline(always)]
            fn combine<L: Level>(
                [a]: [Self; 1],
                [b]: [Self; 1],
                combine: impl Fn(Self, Self) -> Self,
            ) -> [Self; 1] {
                [combine(a, b)]
            }
        }
    )*};
}

stored_as_computed!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8, OrderedF16, OrderedBf16);

impl Lane for bf16 {
    type Number = f32;
    // Two in one 32-bit word: to widen both takes a shift and a mask, and no shuffle.
    type Group = [Self; 2];

    #[inline(always)]
    fn change<L: Level>(group: [Self; 2], change: impl Fn(f32) -> f32) -> [Self; 2] {
        let [low, high] = bf16_pair_values(group);
        bf16_pair([change(low), change(high)])
    }

    #[inline(always)]
    fn combine<L: Level>(
        a: [Self; 2],
        b: [Self; 2],
        combine: impl Fn(f32, f32) -> f32,
    ) -> [Self; 2] {
        let [a_low, a_high] = bf16_pair_values(a);
        let [b_low, b_high] = bf16_pair_values(b);
        bf16_pair([combine(a_low, b_low), combine(a_high, b_high)])
    }
}

impl Lane for f16 {
    type Number = f32;
    type Group = [Self; GROUP];

    #[inline(always)]
    fn change<L: Level>(group: [Self; GROUP], change: impl Fn(f32) -> f32) -> [Self; GROUP] {
        let mut numbers = L::widen(group);
        for number in &mut numbers {
            *number = change(*number);
        }
        L::narrow(numbers)
    }

    #[inline(always)]
    fn combine<L: Level>(
        a: [Self; GROUP],
        b: [Self; GROUP],
        combine: impl Fn(f32, f32) -> f32,
    ) -> [Self; GROUP] {
        let (mut a, b) = (L::widen(a), L::widen(b));
        for (a, b) in a.iter_mut().zip(b) {
            *a = combine(*a, b);
        }
        L::narrow(a)
    }
}

/// `elements` as whole groups and a rest.
#[inline(always)]
fn groups<T: Lane>(elements: &[T]) -> (&[T::Group], &[T]) {
    let length = size_of::<T::Group>() / size_of::<T>();
    let (whole, rest) = elements.split_at(elements.len() / length * length);
    // SAFETY: a group is an array of `length` elements, so neither size nor alignment differs.
    let groups = unsafe { slice::from_raw_parts(whole.as_ptr().cast(), whole.len() / length) };
    (groups, rest)
}

/// As [`groups`], mutably.
#[inline(always)]
fn groups_mut<T: Lane>(elements: &mut [T]) -> (&mut [T::Group], &mut [T]) {
    let length = size_of::<T::Group>() / size_of::<T>();
    let (whole, rest) = elements.split_at_mut(elements.len() / length * length);
    // SAFETY: a group is an array of `length` elements, so neither size nor alignment differs.
    let groups =
        unsafe { slice::from_raw_parts_mut(whole.as_mut_ptr().cast(), whole.len() / length) };
    (groups, rest)
}

/// A group of which the first elements are `rest` and the others zero.
#[inline(always)]
fn padded<T: Lane>(rest: &[T]) -> T::Group {
    assert!(size_of_val(rest) <= size_of::<T::Group>(), "a rest is shorter than a group");
    // SAFETY: elements are plain data for which zero bits are a value.
    let mut group: T::Group = unsafe { mem::zeroed() };
    // SAFETY: the assertion above; `group` is a local, so the two are disjoint.
    unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), (&raw mut group).cast(), rest.len()) };
    group
}

/// Stores the first elements of `group`.
#[inline(always)]
fn store_rest<T: Lane>(rest: &mut [T], group: T::Group) {
    assert!(size_of_val(rest) <= size_of::<T::Group>(), "a rest is shorter than a group");
    // SAFETY: the assertion above; `group` is a local, so the two are disjoint.
    unsafe { ptr::copy_nonoverlapping((&raw const group).cast(), rest.as_mut_ptr(), rest.len()) };
}

/// `out[i] = a[i] op b[i]`; the lengths are equal.
pub(super) struct Zip<'a, T, O> {
    pub(super) out: &'a mut [T],
    pub(super) a: &'a [T],
    pub(super) b: &'a [T],
    pub(super) op: PhantomData<O>,
}

impl<T: Lane, O: Operator<T::Number>> Body for Zip<'_, T, O> {
    #[inline(always)]
    fn run<L: Level>(self) {
        let (out, out_rest) = groups_mut(self.out);
        let ((a, a_rest), (b, b_rest)) = (groups(self.a), groups(self.b));
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = T::combine::<L>(*a, *b, O::combine);
        }
        if !out_rest.is_empty() {
            let last = T::combine::<L>(padded(a_rest), padded(b_rest), O::combine);
            store_rest(out_rest, last);
        }
    }
}

/// `all[i] = all[i] op next[i]`; the lengths are equal.
pub(super) struct Assign<'a, T, O> {
    pub(super) all: &'a mut [T],
    pub(super) next: &'a [T],
    pub(super) op: PhantomData<O>,
}

impl<T: Lane, O: Operator<T::Number>> Body for Assign<'_, T, O> {
    #[inline(always)]
    fn run<L: Level>(self) {
        let (all, all_rest) = groups_mut(self.all);
        let (next, next_rest) = groups(self.next);
        for (all, next) in all.iter_mut().zip(next) {
            *all = T::combine::<L>(*all, *next, O::combine);
        }
        if !all_rest.is_empty() {
            let last = T::combine::<L>(padded(all_rest), padded(next_rest), O::combine);
            store_rest(all_rest, last);
        }
    }
}

/// `all[i] = all[i] / ranks`.
pub(super) struct Divide<'a, T> {
    pub(super) all: &'a mut [T],
    pub(super) ranks: u32,
}

impl<T: Lane<Number: Float>> Body for Divide<'_, T> {
    #[inline(always)]
    fn run<L: Level>(self) {
        let divisor = T::Number::divisor(self.ranks);
        let (all, rest) = groups_mut(self.all);
        for all in all {
            *all = T::change::<L>(*all, |number| number.quotient(divisor));
        }
        if !rest.is_empty() {
            let last = T::change::<L>(padded(rest), |number| number.quotient(divisor));
            store_rest(rest, last);
        }
    }
}

/// `all[i] = all[i] * factor`.
pub(super) struct Multiply<'a, T> {
    pub(super) all: &'a mut [T],
    pub(super) factor: f64,
}

impl<T: Lane<Number: Float>> Body for Multiply<'_, T> {
    #[inline(always)]
    fn run<L: Level>(self) {
        let factor = T::Number::factor(self.factor);
        let (all, rest) = groups_mut(self.all);
        for all in all {
            *all = T::change::<L>(*all, |number| number.product(factor));
        }
        if !rest.is_empty() {
            let last = T::change::<L>(padded(rest), |number| number.product(factor));
            store_rest(rest, last);
        }
    }
}
