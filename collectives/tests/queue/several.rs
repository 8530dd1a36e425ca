//! Several queues of one context, and queues of groups.

use paceline_collectives::queue::Queue;
use paceline_collectives::{ReduceOp, TransportKind};

use super::support::{contexts, every_way, over};
use super::{options, wait};

#[test]
fn several_queues_of_a_context_work_at_the_same_time() {
    contexts(2, &over(TransportKind::Tcp), |context| {
        let queue = || Queue::new(context.communicator().unwrap(), &options()).unwrap();
        let (first, second) = (queue(), queue());
        let blocking = context.communicator().unwrap();
        for step in 0..20 {
            let submit = |queue: &Queue| queue.all_reduce("a", vec![1f32; 1000], ReduceOp::Sum);
            let handles = if (step + context.rank()).is_multiple_of(2) {
                [submit(&first), submit(&second)]
            } else {
                let second = submit(&second);
                [submit(&first), second]
            };
            blocking.barrier().unwrap();
            for handle in handles {
                assert_eq!(wait(handle).unwrap(), [2.0; 1000]);
            }
        }
    });
}

#[test]
fn groups_of_ranks_have_queues_of_their_own() {
    for context_options in every_way() {
        contexts(4, &context_options, |context| {
            let world = context.communicator().unwrap();
            let half = world.split(Some(context.rank() % 2), 0).unwrap().unwrap();
            let [world, half] = [world, half].map(|all| Queue::new(all, &options()).unwrap());
            let submit = |queue: &Queue| {
                queue.all_reduce("rank", vec![f64::from(context.rank())], ReduceOp::Sum)
            };
            let handles = if context.rank() < 2 {
                [submit(&world), submit(&half)]
            } else {
                let half = submit(&half);
                [submit(&world), half]
            };
            let of_half = if context.rank().is_multiple_of(2) { 2.0 } else { 4.0 };
            assert_eq!(handles.map(|handle| wait(handle).unwrap()), [[6.0], [of_half]]);
            // Errors name ranks of the world.
            let odd_one_out = vec![1f32; 1 + context.rank() as usize / 2];
            let failed = wait(half.all_reduce("odd", odd_one_out, ReduceOp::Sum)).unwrap_err();
            let name = format!(", rank {} submitted all_reduce of 2", context.rank() % 2 + 2);
            assert!(failed.to_string().contains(&name), "{failed}");
        });
    }
}
