import CUmrt

extension Model {
    /// Says from a checkpoint's headers what opening it and making one context would take,
    /// and whether it fits beside what is open; takes a millisecond or two. That it does
    /// not fit is a result, not an error.
    ///
    /// - Throws: `UmrtError` with `.notFound`, `.io`, `.format` or `.unsupported`.
    public static func estimate(
        _ path: String,
        model: Options = Options(),
        context: Context.Options = Context.Options()
    ) throws -> MemoryEstimate {
        let path = try cText("path", path)
        var modelParams = try model.native()
        var contextParams = try context.native()
        return try MemoryEstimate(
            .filled { umrt_model_estimate(path, &modelParams, &contextParams, &$0) })
    }
}

/// What a model and one context would take, in bytes, and what there is.
public struct MemoryEstimate: Hashable, Sendable {
    /// Whether opening the model and making the context would succeed now.
    public let fits: Bool
    /// Tokens of each sequence, the default filled in.
    public let tokensPerSequence: Int
    public let sequenceCount: Int
    /// The most tokens per sequence that fit with as many sequences, at most what the model
    /// was trained for or what was asked for; 0: none.
    public let maximumTokensPerSequence: Int
    /// If it does not fit: how many sequences would; 0: none.
    public let maximumSequenceCount: Int
    /// If it does not fit: with a KV cache of so many bits it would; nil: no.
    public let fittingKeyValueBits: Int?
    /// If it does not fit: with weights of so many bits it would; nil: no.
    public let fittingWeightBits: Int?
    /// Weights that would be used where their file is mapped.
    public let weightsMapped: UInt64
    /// Weights that would be copied out of their file.
    public let weightsCopied: UInt64
    /// Keys and values of one token.
    public let keyValueBytesPerToken: UInt64
    /// Keys and values of all sequences when full.
    public let keyValues: UInt64
    public let logits: UInt64
    /// Intermediate results of a step of a prompt.
    public let scratchPrefill: UInt64
    /// Intermediate results of a step of one token for each sequence.
    public let scratchDecode: UInt64
    /// Freed buffers that MLX keeps for the next step.
    public let mlxCache: UInt64
    /// Tokenizer, names and shapes, sequences.
    public let tables: UInt64
    /// Weights, keys and values, logits, the larger scratch, freed buffers and tables.
    public let total: UInt64
    public let physical: UInt64
    /// What models may use.
    public let usable: UInt64
    /// What bounds `usable`, for people.
    public let usableReason: String
    /// Of that, promised to open models and contexts.
    public let taken: UInt64
    /// By how much it does not fit; 0: it does.
    public let missing: UInt64

    init(_ found: umrt_memory_estimate) {
        fits = found.fits != 0
        tokensPerSequence = Int(found.n_ctx)
        sequenceCount = Int(found.n_seq)
        maximumTokensPerSequence = Int(found.max_n_ctx)
        maximumSequenceCount = Int(found.max_n_seq)
        fittingKeyValueBits = found.fit_kv_bits == 0 ? nil : Int(found.fit_kv_bits)
        fittingWeightBits = found.fit_weight_bits == 0 ? nil : Int(found.fit_weight_bits)
        weightsMapped = found.weights_mapped_bytes
        weightsCopied = found.weights_copied_bytes
        keyValueBytesPerToken = found.kv_bytes_per_token
        keyValues = found.kv_bytes
        logits = found.logits_bytes
        scratchPrefill = found.scratch_prefill_bytes
        scratchDecode = found.scratch_decode_bytes
        mlxCache = found.mlx_cache_bytes
        tables = found.tables_bytes
        total = found.total_bytes
        physical = found.physical_bytes
        usable = found.usable_bytes
        usableReason = text(at: found.usable_reason)
        taken = found.taken_bytes
        missing = found.missing_bytes
    }
}

/// A model and a machine in numbers, for a checkpoint or a machine that is not here.
public struct MemoryPlan: Hashable, Sendable {
    /// Values in all weights.
    public var parameterCount: UInt64
    /// Those that compute one token, fewer in mixtures of experts. 0: all.
    public var activeParameterCount: UInt64 = 0
    /// 4.5 for 4-bit weights with scales and biases for groups of 64.
    public var bitsPerWeight = 16.0
    public var keyValueBits = 16.0
    public var layerCount = 0
    public var keyValueHeadCount = 0
    public var headDimension = 0
    public var tokensPerSequence = 0
    public var sequenceCount = 1
    public var memoryBytes: UInt64
    /// The share of the memory that models may use.
    public var fraction = 0.75
    /// What the machine reads per second, in units of 10^9 bytes. 0: unknown.
    public var gigabytesPerSecond = 0.0

    public init(parameterCount: UInt64, memoryBytes: UInt64) {
        self.parameterCount = parameterCount
        self.memoryBytes = memoryBytes
    }

    /// What follows from the numbers.
    public struct Result: Hashable, Sendable {
        /// Whether weights and KV cache fit into the usable memory.
        public let fits: Bool
        /// The most tokens per sequence that fit with as many sequences; 0: none.
        public let maximumTokensPerSequence: Int
        /// Bytes.
        public let weights: UInt64
        /// Bytes.
        public let keyValueBytesPerToken: UInt64
        /// Bytes of all sequences when full.
        public let keyValues: UInt64
        /// Bytes.
        public let total: UInt64
        /// Bytes.
        public let usable: UInt64
        /// At most, with an empty cache; 0: the bandwidth is unknown.
        public let tokensPerSecond: Double
        /// At most, with one full sequence.
        public let tokensPerSecondFull: Double
    }

    /// - Throws: `UmrtError` with `.invalidArgument` (a number that makes no sense, named).
    public func result() throws -> Result {
        var numbers = umrt_numbers.initialized
        numbers.n_parameters = parameterCount
        numbers.n_active_parameters = activeParameterCount
        numbers.bits_per_weight = bitsPerWeight
        numbers.kv_bits = keyValueBits
        numbers.n_layers = try count("layerCount", layerCount)
        numbers.n_kv_heads = try count("keyValueHeadCount", keyValueHeadCount)
        numbers.head_dim = try count("headDimension", headDimension)
        numbers.n_ctx = try count("tokensPerSequence", tokensPerSequence)
        numbers.n_seq = try count("sequenceCount", sequenceCount)
        numbers.memory_bytes = memoryBytes
        numbers.fraction = fraction
        numbers.gigabytes_per_second = gigabytesPerSecond
        let found = try umrt_numbers_result.filled { umrt_numbers_plan(&numbers, &$0) }
        return Result(
            fits: found.fits != 0,
            maximumTokensPerSequence: Int(found.max_n_ctx),
            weights: found.weight_bytes,
            keyValueBytesPerToken: found.kv_bytes_per_token,
            keyValues: found.kv_bytes,
            total: found.total_bytes,
            usable: found.usable_bytes,
            tokensPerSecond: found.tokens_per_second,
            tokensPerSecondFull: found.tokens_per_second_full)
    }
}
