import CUmrt

/// What memory is used for, in bytes. For a model, a context or a sequence only its own
/// fields are filled; the others are 0.
///
/// Private memory that is accounted for is counted once, in one of `weightsCopied`,
/// `keyValuesReserved`, `prefixCache`, `logits`, `scratch`, `mlxCache` and `text`, whose sum
/// is `total`. Mapped weights are no private memory; they are the page cache's.
public struct MemoryStatistics: Hashable, Sendable {
    /// Memory of the machine.
    public let physical: UInt64
    /// What models may use of it.
    public let usable: UInt64
    /// What bounds `usable`, for people; empty for models and contexts.
    public let usableReason: String
    /// Weights used where their file is mapped: in memory once, shared with the page cache.
    public let weightsMapped: UInt64
    /// How much of the mapped files the page cache holds now.
    public let weightsResident: UInt64
    /// Weights that had to be copied out of their file, or were read into private memory.
    public let weightsCopied: UInt64
    /// Weight files locked in memory.
    public let weightsLocked: UInt64
    /// Tensors of adapters, used where their file is mapped.
    public let adapters: UInt64
    /// Keys and values: allocated. What forks of a sequence share counts once.
    public let keyValuesReserved: UInt64
    /// Of that, filled with tokens.
    public let keyValuesUsed: UInt64
    /// The highest `keyValuesReserved` so far.
    public let keyValuesPeak: UInt64
    /// Keys and values of idle sequences that are on disk, see `Memory.spill`; no memory.
    public let keyValuesSpilled: UInt64
    /// Keys and values that only prefix caches hold.
    public let prefixCache: UInt64
    /// Logits of each context's last evaluation.
    public let logits: UInt64
    /// Intermediate results.
    public let scratch: UInt64
    /// MLX's arrays: logits, copied weights, scratch; on a GPU the KV cache.
    public let mlxActive: UInt64
    /// Freed buffers that MLX keeps for reuse.
    public let mlxCache: UInt64
    /// The highest `mlxActive` so far.
    public let mlxPeak: UInt64
    /// The highest that the kernels' buffers in `scratch` have been.
    public let kernelsPeak: UInt64
    /// Tokenizers and chat templates, estimated; 0 until they are first used.
    public let text: UInt64
    /// Private memory that is accounted for: the sum named above.
    public let total: UInt64
    /// Of that, what is in the memory of GPUs that have their own.
    public let onGPU: UInt64
    /// The process: private memory, resident.
    public let processAnonymous: UInt64
    /// The process: memory backed by files, resident; mapped weights and code.
    public let processFile: UInt64
    /// The process: the highest that resident memory has been, files included.
    public let processPeak: UInt64
    /// The process: private memory that was moved to swap.
    public let swapped: UInt64
    /// Page faults served from memory since the process began; a number, not bytes.
    public let minorFaults: UInt64
    /// Page faults that read from disk; a number, not bytes.
    public let majorFaults: UInt64
    /// By how long processes waited for memory in the last ten seconds.
    public let pressure: Memory.Pressure
    /// The share of these ten seconds in which at least one waited: 0 to 100.
    public let pressurePercent: Float

    init(_ info: umrt_memory_info) {
        physical = info.physical_bytes
        usable = info.usable_bytes
        usableReason = Umrt.text(at: info.usable_reason)
        weightsMapped = info.weights_mapped_bytes
        weightsResident = info.weights_resident_bytes
        weightsCopied = info.weights_copied_bytes
        weightsLocked = info.weights_locked_bytes
        adapters = info.adapters_bytes
        keyValuesReserved = info.kv_reserved_bytes
        keyValuesUsed = info.kv_used_bytes
        keyValuesPeak = info.kv_peak_bytes
        keyValuesSpilled = info.kv_spilled_bytes
        prefixCache = info.prefix_cache_bytes
        logits = info.logits_bytes
        scratch = info.scratch_bytes
        mlxActive = info.mlx_active_bytes
        mlxCache = info.mlx_cache_bytes
        mlxPeak = info.mlx_peak_bytes
        kernelsPeak = info.kernels_peak_bytes
        text = info.text_bytes
        total = info.total_bytes
        onGPU = info.gpu_bytes
        processAnonymous = info.process_anonymous_bytes
        processFile = info.process_file_bytes
        processPeak = info.process_peak_bytes
        swapped = info.swap_bytes
        minorFaults = info.minor_faults
        majorFaults = info.major_faults
        pressure = Memory.Pressure(rawValue: info.pressure_level) ?? .unknown
        pressurePercent = info.pressure_percent
    }
}

/// The memory of all models and contexts of this process.
public enum Memory {
    /// What the whole process uses memory for. Costs a walk over the page tables of the
    /// mapped files: about 1 ms per 1.5 GB. Figures that change meanwhile need not fit
    /// together.
    public static func statistics() throws -> MemoryStatistics {
        try MemoryStatistics(.filled { umrt_memory_stats(&$0) })
    }

    /// How short of memory the system is.
    public enum Pressure: UInt32, Sendable {
        /// The system does not say.
        case unknown = 0
        case normal = 1
        /// Some processes wait for memory. umrt gives back what costs little to get again.
        case warning = 2
        /// At times nothing runs for want of memory. umrt begins nothing new as well.
        case critical = 3
    }

    /// What to give back.
    public struct Trim: OptionSet, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        /// Freed buffers that MLX keeps, and the free part of the heap.
        public static let mlxCache = Trim(rawValue: UInt32(UMRT_TRIM_MLX_CACHE))
        /// The pages of all models that are neither pinned nor locked nor computing.
        public static let idleModels = Trim(rawValue: UInt32(UMRT_TRIM_IDLE_MODELS))
        /// Only those of models whose idle time is over, see `Model.setPolicy`.
        public static let timedOutModels = Trim(rawValue: UInt32(UMRT_TRIM_TIMED_OUT_MODELS))
        /// Keys and values of contexts that are not computing go to disk, see `spill`.
        public static let idleSequences = Trim(rawValue: UInt32(UMRT_TRIM_IDLE_SEQUENCES))
        /// Keys and values that only prefix caches hold.
        public static let prefixCaches = Trim(rawValue: UInt32(UMRT_TRIM_PREFIX_CACHES))
        /// Keys and values of contexts that are not computing are stored as their
        /// `keysAndValuesUnderPressure` says, if they have one. Not lossless.
        public static let reduceSequences = Trim(rawValue: UInt32(UMRT_TRIM_REDUCE_SEQUENCES))
    }

    /// What was given back, in bytes.
    public struct Trimmed: Hashable, Sendable {
        public let modelCount: Int
        /// Sequences that are on disk now.
        public let sequenceCount: Int
        /// Sequences that are stored in fewer bits now.
        public let reducedSequenceCount: Int
        /// By how much MLX's cache shrank.
        public let mlxCache: UInt64
        /// By how much the process's private memory shrank.
        public let privateMemory: UInt64
        /// By how much the process's pages of files shrank.
        public let models: UInt64
        /// By how much KV caches shrank: sequences that are on disk now.
        public let sequences: UInt64
        /// By how much KV caches shrank: sequences that are stored in fewer bits now.
        public let reducedSequences: UInt64
        /// By how much prefix caches shrank.
        public let prefixCaches: UInt64

        init(_ result: umrt_trim_result) {
            modelCount = Int(result.n_models)
            sequenceCount = Int(result.n_sequences)
            mlxCache = result.mlx_cache_bytes
            privateMemory = result.private_bytes
            models = result.model_bytes
            sequences = result.sequence_bytes
            reducedSequenceCount = Int(result.n_reduced)
            reducedSequences = result.reduced_bytes
            prefixCaches = result.prefix_cache_bytes
        }
    }

    /// Gives memory back to the system without losing anything.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (`.idleSequences` without a directory),
    ///   `.io` or `.backend`.
    @discardableResult
    public static func trim(
        _ what: Trim = [.mlxCache, .prefixCaches, .idleModels]
    ) throws -> Trimmed {
        guard !what.isEmpty else {
            return Trimmed(.initialized)
        }
        return try Trimmed(.filled { umrt_memory_trim(what.rawValue, &$0) })
    }

    /// Allows umrt to write keys and values of idle sequences to disk when memory is short
    /// or `.idleSequences` asks for it. They come back when they are used next.
    ///
    /// What is written is the text in another form: choose a directory that is as private.
    ///
    /// - Parameters:
    ///   - directory: Its files have no names, so that nothing is left behind however the
    ///     process ends. nil ends it; what is on disk stays there until it is used.
    ///   - maximumBytes: What all of them may take together.
    /// - Throws: `UmrtError` with `.notFound` (no such directory).
    public static func spill(to directory: String?, maximumBytes: UInt64 = .max) throws {
        let directory = try directory.map { try cText("directory", $0) }
        try check(umrt_memory_spill_set(directory, maximumBytes))
    }

    /// Acts on memory pressure: from a warning on, umrt gives back what `trim` does and,
    /// with a directory to `spill` to, idle sequences; while it is critical, models and
    /// contexts are refused with `.overBudget`. For hosts whose system tells them, such as
    /// with a dispatch source of memory pressure.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (`.unknown`), `.io` or `.backend`.
    @discardableResult
    public static func notify(pressure: Pressure) throws -> Trimmed {
        try Trimmed(.filled { umrt_memory_pressure_notify(pressure.rawValue, &$0) })
    }

    /// How much models may use.
    public enum Limit: Hashable, Sendable {
        /// Of physical memory, above 0 and at most 1.
        case fraction(Double)
        case bytes(UInt64)
    }

    /// Sets how much all models and contexts may use together; nil: the default, 75% of
    /// physical memory. Limits of the system stay in force. What is open stays open; only
    /// what comes next is refused.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument`.
    public static func setBudget(_ limit: Limit?) throws {
        var budget = umrt_memory_budget.initialized
        switch limit {
        case .fraction(let fraction): budget.fraction = fraction
        case .bytes(let bytes): budget.bytes = bytes
        case nil: break
        }
        try check(umrt_memory_budget_set(&budget))
    }

    /// The budget and what is promised of it.
    public static func budget() throws -> MemoryBudget {
        try MemoryBudget(.filled { umrt_memory_budget_get(&$0) })
    }

    /// Finds out what is wrong with memory. Call it every second or so, or when tokens come
    /// slowly: rates are those since the last call, and the first call only begins to
    /// measure.
    ///
    /// - Parameter context: Whose sequences to look at.
    /// - Throws: `UmrtError` with `.io` or `.backend`.
    public static func diagnose(_ context: Context? = nil) async throws -> MemoryDiagnosis {
        guard let context else {
            return try MemoryDiagnosis(.filled { umrt_memory_diagnose(nil, &$0) })
        }
        return try await context.worker.run { _ in
            try MemoryDiagnosis(
                .filled { found in context.handle.use { umrt_memory_diagnose($0, &found) } })
        }
    }
}

/// The memory budget and what is promised of it, in bytes.
public struct MemoryBudget: Hashable, Sendable {
    public let physical: UInt64
    /// What models may use of it.
    public let usable: UInt64
    /// What bounds `usable`, for people.
    public let usableReason: String
    /// All that is promised: mapped weights, private memory, scratch memory and freed
    /// buffers.
    public let taken: UInt64
    /// Mapped weights of models that take turns. The largest model's count.
    public let mapped: UInt64
    /// Mapped weights of pinned models.
    public let pinned: UInt64
    /// Mapped weights of models opened with `allowsPaging`; not counted.
    public let paged: UInt64
    /// Full KV caches, logits, copied weights and tables.
    public let privateMemory: UInt64
    /// The largest step of each context.
    public let scratch: UInt64
    /// Freed buffers that MLX may keep.
    public let mlxCache: UInt64

    init(_ info: umrt_memory_budget_info) {
        physical = info.physical_bytes
        usable = info.usable_bytes
        usableReason = text(at: info.usable_reason)
        taken = info.taken_bytes
        mapped = info.mapped_bytes
        pinned = info.pinned_bytes
        paged = info.paged_bytes
        privateMemory = info.private_bytes
        scratch = info.scratch_bytes
        mlxCache = info.mlx_cache_bytes
    }
}

/// What is wrong with memory, if anything.
public struct MemoryDiagnosis: Hashable, Sendable {
    /// The most urgent finding.
    public let finding: Finding
    /// What is the case, for people.
    public let text: String
    /// What to do about it.
    public let advice: String
    /// Since the last diagnosis, which `majorFaults` is counted over.
    public let window: Duration
    /// Page faults that read from disk in that time.
    public let majorFaults: UInt64
    /// Bytes of the process's private memory in swap.
    public let swapped: UInt64
    /// Bytes that models and contexts hold in memory.
    public let held: UInt64
    /// Bytes that they may use.
    public let usable: UInt64
    /// Tokens of the context's longest sequence.
    public let tokens: Int

    /// What may be wrong.
    public enum Finding: UInt32, Sendable {
        case normal = 0
        /// A weight file was changed while its model is open.
        case fileChanged = 1
        /// Private memory was moved to swap.
        case swapping = 2
        /// Weights do not fit into memory and are read again and again.
        case paging = 3
        /// More is held than models may use.
        case overBudget = 4
        /// The system is short of memory.
        case pressure = 5
        /// Weights are being read for the first time.
        case loading = 6
        /// A sequence has filled nine tenths of its room.
        case contextNearlyFull = 7
        /// Mapped weights had to be copied.
        case heldTwice = 8
    }

    init(_ found: umrt_memory_diagnosis) {
        guard let finding = Finding(rawValue: found.finding) else {
            preconditionFailure("umrt found \(found.finding)")
        }
        self.finding = finding
        text = Umrt.text(at: found.text)
        advice = Umrt.text(at: found.advice)
        window = .milliseconds(found.window_ms)
        majorFaults = found.major_faults
        swapped = found.swap_bytes
        held = found.held_bytes
        usable = found.usable_bytes
        tokens = Int(found.n_tokens)
    }
}
