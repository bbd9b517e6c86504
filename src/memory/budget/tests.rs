use super::super::machine::Bound;
use super::*;

const MIB: usize = 1 << 20;

fn budget_of(bytes: usize) -> &'static Budget {
    let budget: &'static Budget = Box::leak(Box::default());
    budget.set_share(Some(Share::Bytes(bytes)));
    budget.set_mlx_cache(Some(0));
    budget
}

fn private(bytes: usize) -> Demand {
    Demand {
        private: bytes,
        ..Demand::default()
    }
}

#[test]
fn reservations_share_the_budget_and_give_it_back() {
    let budget = budget_of(100 * MIB);
    let first = budget.reserve(private(60 * MIB)).expect("fits");
    let shortage = budget.reserve(private(60 * MIB)).err().expect("too much");
    assert_eq!((shortage.taken, shortage.missing), (60 * MIB, 20 * MIB));
    assert_eq!(shortage.limit.bound, Bound::Budget);
    let text = shortage.to_string();
    assert!(
        text.contains("20 MiB more") && text.contains("of the 100 MiB"),
        "{text}"
    );
    drop(first);
    assert!(budget.reserve(private(100 * MIB)).is_ok());
    assert_eq!(budget.snapshot().taken(), 0);
}

#[test]
fn what_cannot_grow_stays_as_it_was() {
    let budget = budget_of(100 * MIB);
    let mut growing = budget.reserve(private(60 * MIB)).expect("fits");
    assert!(growing.resize(private(101 * MIB)).is_err());
    assert_eq!(growing.demand(), private(60 * MIB));
    assert_eq!(budget.snapshot().taken(), 60 * MIB);
    growing.resize(private(100 * MIB)).expect("fits");
    growing.resize(private(10 * MIB)).expect("fits");
    assert_eq!(budget.snapshot().taken(), 10 * MIB);
}

#[test]
fn weights_that_may_be_paged_take_addresses_only() {
    let budget = budget_of(100 * MIB);
    let weights = |mapped, paged| Demand {
        mapped,
        paged,
        ..Demand::default()
    };
    assert!(budget.reserve(weights(101 * MIB, 0)).is_err());
    let paged = budget.reserve(weights(0, 101 * MIB)).expect("allowed");
    assert_eq!(budget.snapshot().taken(), 0);
    assert_eq!(paged.demand().total(), 101 * MIB);
}

#[test]
fn models_take_turns_unless_they_are_kept() {
    let budget = budget_of(100 * MIB);
    let model = Demand {
        mapped: 60 * MIB,
        ..Demand::default()
    };
    let mut first = budget.reserve(model).expect("fits");
    let _second = budget.reserve(model).expect("takes turns with the first");
    assert_eq!(budget.snapshot().taken(), 60 * MIB);
    assert!(first.resize(model.keeping(true)).is_err(), "not both");
    let context = budget.reserve(private(40 * MIB)).expect("beside either");
    assert!(budget.reserve(private(1)).is_err());
    drop((context, first));
    let small = Demand {
        mapped: 40 * MIB,
        ..Demand::default()
    };
    let kept = budget.reserve(small.keeping(true)).expect("fits");
    assert_eq!(budget.snapshot().taken(), 100 * MIB);
    drop(kept);
    assert_eq!(budget.snapshot().taken(), 60 * MIB);
}

#[test]
fn freed_buffers_are_reserved_once_for_the_largest_step() {
    let budget = budget_of(100 * MIB);
    budget.set_mlx_cache(None);
    let scratch = |bytes| Demand {
        scratch: bytes,
        ..Demand::default()
    };
    let first = budget.reserve(scratch(20 * MIB)).expect("fits");
    assert_eq!(budget.snapshot().taken(), 40 * MIB);
    let second = budget.reserve(scratch(10 * MIB)).expect("fits");
    assert_eq!(budget.snapshot().taken(), 50 * MIB);
    assert!(budget.reserve(scratch(36 * MIB)).is_err());
    drop(first);
    assert_eq!(budget.snapshot().taken(), 20 * MIB);
    drop(second);
    assert_eq!(budget.snapshot().taken(), 0);
}

#[test]
fn a_gpus_own_memory_and_the_machines_are_counted_apart() {
    let budget = budget_of(100 * MIB);
    budget.set_mlx_cache(None);
    budget.set_gpu_memory(0, Some(50 * MIB));
    let on_gpu = |held, scratch| Demand {
        gpu: held,
        gpu_scratch: scratch,
        ..Demand::default()
    };
    let _here = budget.reserve(private(100 * MIB)).expect("fits here");
    let there = budget.reserve(on_gpu(30 * MIB, 10 * MIB)).expect("there");
    assert_eq!(budget.snapshot().taken(), 100 * MIB);
    let shortage = budget.reserve(on_gpu(MIB, 0)).err().expect("full");
    assert_eq!(shortage.limit.bound, Bound::GpuMemory);
    assert_eq!(shortage.taken, 50 * MIB, "freed buffers are among them");
    drop(there);
    assert!(budget.reserve(on_gpu(50 * MIB, 0)).is_ok());
    assert_eq!(private(MIB).moved_to_gpu(0), on_gpu(MIB, 0));
}

#[test]
fn each_gpu_has_a_budget_of_its_own() {
    let budget = budget_of(100 * MIB);
    budget.set_gpu_memory(0, Some(50 * MIB));
    budget.set_gpu_memory(1, Some(20 * MIB));
    let on = |index, bytes| private(bytes).moved_to_gpu(index);
    let first = budget.reserve(on(0, 50 * MIB)).expect("fits on the first");
    assert!(budget.reserve(on(0, MIB)).is_err());
    let second = budget
        .reserve(on(1, 20 * MIB))
        .expect("the second is empty");
    let shortage = budget.reserve(on(1, MIB)).err().expect("full");
    assert_eq!((shortage.taken, shortage.missing), (20 * MIB, MIB));
    budget.reserve(private(100 * MIB)).expect("fits here");
    let snapshot = budget.snapshot();
    assert_eq!((snapshot.taken(), snapshot.spare()), (0, 0));
    assert_eq!(snapshot.gpu_memory(1), Some(20 * MIB));
    assert_eq!(snapshot.usable_for_arrays(), 70 * MIB);
    assert_eq!(snapshot.part_on_gpu(0, 7 * MIB), 5 * MIB);
    assert_eq!(snapshot.part_on_gpu(1, 7 * MIB), 2 * MIB);
    drop((first, second));
    assert_eq!(
        budget.snapshot().part_on_gpu(1, MIB),
        MIB,
        "nothing is promised"
    );
    assert!(budget.reserve(on(1, 20 * MIB)).is_ok());
}

#[test]
fn freed_buffers_are_kept_on_each_gpu() {
    let budget = budget_of(100 * MIB);
    budget.set_mlx_cache(None);
    let scratch = |gpu_index, gpu_scratch| Demand {
        gpu_scratch,
        gpu_index,
        ..Demand::default()
    };
    budget.set_gpu_memory(0, Some(20 * MIB));
    let _first = budget.reserve(scratch(0, 10 * MIB)).expect("fits");
    let _second = budget.reserve(scratch(1, 5 * MIB)).expect("fits");
    let snapshot = budget.snapshot();
    assert_eq!(snapshot.mlx_cache_bytes(&Demand::default()), 15 * MIB);
    assert_eq!(snapshot.mlx_cache_bytes(&scratch(1, 8 * MIB)), 18 * MIB);
    assert!(budget.reserve(scratch(0, 1)).is_err());
}

#[test]
fn a_smaller_budget_takes_nothing_away() {
    let budget = budget_of(100 * MIB);
    let before = budget.reserve(private(80 * MIB)).expect("fits");
    budget.set_share(Some(Share::Bytes(50 * MIB)));
    assert!(budget.reserve(private(1)).is_err());
    assert_eq!(before.demand(), private(80 * MIB));
    drop(before);
    assert!(budget.reserve(private(50 * MIB)).is_ok());
}
