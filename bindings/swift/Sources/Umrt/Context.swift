import CUmrt

/// Sequences of one model and their KV caches.
///
/// Calls wait for each other and run in the order in which they came, on a thread of
/// the context's own. Several contexts run at once.
public final class Context: Sendable {
    let handle: Handle
    let worker: Worker

    /// The model that it belongs to.
    public let model: Model

    /// What the context is.
    public let info: ContextInfo

    /// How to make a context. 0 is the default of every count.
    public struct Options: Hashable, Sendable {
        /// Tokens that each sequence may hold. 0: what the model was trained for, but at
        /// most 8192. Memory grows with the tokens that are there.
        public var tokensPerSequence = 0
        /// Sequences; their ids are 0 to this less one. 0: 1.
        public var sequenceCount = 0
        /// Tokens that are evaluated together at most: more is faster for prompts and
        /// takes more scratch memory. 0: 512.
        public var prefillChunk = 0
        /// Threads that compute on the CPU, at most 1024; contexts with the same number
        /// share them. 0: the physical cores that the process may use.
        public var threadCount = 0
        /// How keys and values are stored.
        public var keysAndValues = KeyValueType.computed
        /// How those of idle sequences are stored from memory pressure on until they are
        /// empty: in fewer bits, which is not lossless. `computed`: as they are.
        public var keysAndValuesUnderPressure = KeyValueType.computed
        /// Bytes that the context may take at most. 0: what the memory budget leaves.
        public var memoryLimitBytes: UInt64 = 0
        /// Keep blocks of 256 tokens that sequences complete, and all that they give up, in
        /// the model's prefix cache (`Model.setPrefixCache`). Prompts of generations begin
        /// with what is found there, and `Context.reusePrefix` does so for `evaluate`.
        public var usesPrefixCache = false
        /// What happens when tokens do not fit behind a sequence.
        public var overflow = Overflow.refuse
        /// As what activations are multiplied with quantized weights.
        public var activations = Activations.automatic

        public init(tokensPerSequence: Int = 0, sequenceCount: Int = 0) {
            self.tokensPerSequence = tokensPerSequence
            self.sequenceCount = sequenceCount
        }

        func native() throws -> umrt_ctx_params {
            var params = umrt_ctx_params.initialized
            params.n_ctx = try count("tokensPerSequence", tokensPerSequence)
            params.n_seq = try count("sequenceCount", sequenceCount)
            params.prefill_chunk = try count("prefillChunk", prefillChunk)
            params.n_threads = try count("threadCount", threadCount)
            params.kv_type = keysAndValues.rawValue
            params.pressure_kv_type = keysAndValuesUnderPressure.rawValue
            params.memory_limit = memoryLimitBytes
            params.activations = activations.rawValue
            params.prefix_cache = usesPrefixCache ? 1 : 0
            if case .shift(let kept) = overflow {
                params.overflow = UInt32(UMRT_OVERFLOW_SHIFT)
                params.n_keep = try count("keeping", kept)
            }
            return params
        }
    }

    /// What happens when tokens do not fit behind a sequence.
    public enum Overflow: Hashable, Sendable {
        /// They are refused with `.noSpace`, and a generation ends.
        case refuse
        /// Half of the oldest tokens behind the first ones are removed as by
        /// `Context.shift`. A few that stay (4, say) keep a text coherent.
        case shift(keeping: Int)
    }

    /// Bits of activations in products with quantized weights.
    public enum Activations: UInt32, Sendable {
        /// 15 for a single token, 8 where several bfloat16 tokens are evaluated together.
        case automatic = 0
        /// 8 always: what a sequence gets does not depend on up to 11 tokens of others that
        /// decode beside it. On GPUs it is refused.
        case bits8 = 1
    }

    /// How keys and values are stored. Fewer bits take less memory and cost accuracy:
    /// with 8 bits hardly any, with 4 bits some; 8 and 4 bits also cost time behind long
    /// prompts.
    public enum KeyValueType: UInt32, Sendable {
        /// In the type that the model computes in.
        case computed = 0
        case float32 = 1
        case float16 = 2
        case bfloat16 = 3
        /// Whole numbers of 8 bits, with a scale and a bias for every 64.
        case bits8Group64 = 4
        /// Whole numbers of 8 bits, with a scale and a bias for every 32.
        case bits8Group32 = 5
        /// Whole numbers of 4 bits, with a scale and a bias for every 64.
        case bits4Group64 = 6
        /// Whole numbers of 4 bits, with a scale and a bias for every 32.
        case bits4Group32 = 7
    }

    init(_ model: Model, options: Options) async throws {
        let worker = Worker("umrt.context")
        let handle = try await worker.run { _ in
            var params = try options.native()
            return try model.handle.use { model in
                try Handle(free: umrt_ctx_free) { umrt_ctx_new(model, &params, &$0) }
            }
        }
        self.model = model
        self.worker = worker
        self.handle = handle
        info = try ContextInfo(
            .filled { info in handle.use { umrt_ctx_info_get($0, &info) } })
    }

    /// Calls a function of the C API on the context's thread.
    func call(_ function: @escaping @Sendable (OpaquePointer) -> umrt_status) async throws {
        try await worker.run { _ in try self.handle.call(function) }
    }

    /// Appends tokens to a sequence and computes the logits after the last one, which
    /// stay until the next successful evaluation. Cancelling the task stops it.
    ///
    /// If it fails or is stopped, sequences and logits are as before.
    ///
    /// - Parameter timeout: After which it is stopped; nil: it has all the time it needs.
    /// - Throws: `UmrtError` with `.invalidArgument` (an id out of range), `.noSpace` (the
    ///   sequence would exceed the context), `.deadlineExceeded`, `.outOfMemory` or
    ///   `.backend`; `CancellationError`.
    public func evaluate(
        _ tokens: [Token], sequence: Int = 0, timeout: Duration? = nil
    ) async throws {
        let last = tokens.count - 1
        try await evaluate(
            tokens.enumerated().map { index, token in
                BatchToken(token, sequence: sequence, wantsLogits: index == last)
            }, timeout: timeout)
    }

    /// Appends tokens to their sequences and computes the wanted logits, as above.
    ///
    /// - Returns: The number of rows of logits, which are in the order of their tokens.
    /// - Throws: Also `.overBudget` (too many logits at once).
    @discardableResult
    public func evaluate(_ batch: [BatchToken], timeout: Duration? = nil) async throws -> Int {
        try await worker.run { cancel in
            let tokens = batch.map(\.token)
            let sequences = batch.map { Int32(clamping: $0.sequence) }
            let wanted: [UInt8] = batch.map { $0.wantsLogits ? 1 : 0 }
            var params = umrt_batch.initialized
            params.n_tokens = try count("the number of tokens", batch.count)
            params.deadline_ms = try milliseconds("timeout", timeout)
            var result = umrt_eval_result.initialized
            try tokens.withUnsafeBufferPointer { tokens in
                try sequences.withUnsafeBufferPointer { sequences in
                    try wanted.withUnsafeBufferPointer { wanted in
                        params.tokens = tokens.baseAddress
                        params.seq_ids = sequences.baseAddress
                        params.want_logits = wanted.baseAddress
                        try self.handle.call { context in
                            cancel.use { umrt_eval(context, &params, $0, &result) }
                        }
                    }
                }
            }
            return Int(result.n_logits)
        }
    }

    /// A row of the last evaluation's logits, one for each token of the vocabulary.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such row).
    public func logits(row: Int = 0) async throws -> [Float] {
        try await withLogits(row: row) { Array($0) }
    }

    /// Calls `body`, on the context's thread, with a row of the last evaluation's logits
    /// where it lies. It must not be used afterwards.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such row), and what `body` throws.
    public func withLogits<Result: Sendable>(
        row: Int = 0,
        _ body: @escaping @Sendable (UnsafeBufferPointer<Float>) throws -> Result
    ) async throws -> Result {
        try await worker.run { _ in
            let row = try count("row", row)
            var logits: UnsafePointer<Float>?
            return try self.handle.use { context in
                try check(umrt_logits_view(context, Int(row), &logits))
                return try body(
                    UnsafeBufferPointer(start: logits, count: self.info.vocabularySize))
            }
        }
    }

    /// Chooses a token from one row of the last evaluation's logits; `sampler` remembers
    /// it.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such row), `.busy` (the sampler) or
    ///   `.backend` (all logits are NaN).
    public func sample(with sampler: Sampler, row: Int = 0) async throws -> Token {
        try await worker.run { _ in
            let row = try count("row", row)
            var token: Token = 0
            try self.handle.call { context in
                sampler.handle.use { umrt_sample(context, $0, Int(row), &token) }
            }
            return token
        }
    }

    /// Evaluates with these adapters from now on, instead of those set before; none: the
    /// model as it is. Sequences keep what was computed for their tokens: to have all
    /// under the new adapters, `trim(sequence, keeping: 0)` and evaluate them again.
    ///
    /// - Parameter adapters: Each with the scale that its update is multiplied with: 1 is
    ///   as trained.
    /// - Throws: `UmrtError` with `.invalidArgument` (an adapter of another model, a scale
    ///   that is not finite) or `.overBudget`; the adapters from before stay then.
    public func setAdapters(_ adapters: [(adapter: Adapter, scale: Float)]) async throws {
        let scales = adapters.map(\.scale)
        let adapters = adapters.map(\.adapter)
        try await call { context in
            withExtendedLifetime(adapters) {
                let handles: [OpaquePointer?] = adapters.map { $0.handle.use { $0 } }
                return umrt_ctx_set_adapters(context, handles, scales, scales.count)
            }
        }
    }

    /// The context's own memory: KV caches and logits.
    public func memory() async throws -> MemoryStatistics {
        try await worker.run { _ in
            try MemoryStatistics(
                .filled { memory in
                    self.handle.use { umrt_ctx_memory_stats($0, &memory) }
                })
        }
    }

    /// What was computed since the context was made, and how long it took.
    public func performance() async throws -> Performance {
        try await worker.run { _ in
            try Performance(.filled { perf in self.handle.use { umrt_ctx_perf($0, &perf) } })
        }
    }
}

/// A token to append to a sequence.
public struct BatchToken: Hashable, Sendable {
    public var token: Token
    public var sequence: Int
    /// Whether the logits after this token are wanted.
    public var wantsLogits: Bool

    public init(_ token: Token, sequence: Int = 0, wantsLogits: Bool = false) {
        self.token = token
        self.sequence = sequence
        self.wantsLogits = wantsLogits
    }
}

/// What a context is.
public struct ContextInfo: Hashable, Sendable {
    /// Tokens that each sequence may hold.
    public let tokensPerSequence: Int
    public let sequenceCount: Int
    /// Tokens that are evaluated together at most.
    public let prefillChunk: Int
    /// Length of a row of logits.
    public let vocabularySize: Int
    /// Threads that compute on the CPU; 1 where MLX alone does, as on a GPU.
    public let threadCount: Int
    /// Bytes that each token adds to a sequence's KV cache.
    public let keyValueBytesPerToken: UInt64

    init(_ info: umrt_ctx_info) {
        tokensPerSequence = Int(info.n_ctx)
        sequenceCount = Int(info.n_seq)
        prefillChunk = Int(info.prefill_chunk)
        vocabularySize = Int(info.vocab_size)
        threadCount = Int(info.n_threads)
        keyValueBytesPerToken = info.kv_bytes_per_token
    }
}

/// Counters since a context was made. A step in which each sequence gets one token
/// counts as decoding, any other as prefill.
public struct Performance: Hashable, Sendable {
    public let prefillTokens: UInt64
    public let decodeTokens: UInt64
    /// Successful evaluations, those of generations included.
    public let evaluations: UInt64
    public let prefillTime: Duration
    public let decodeTime: Duration
    /// How often a text began with what the prefix cache had.
    public let prefixHits: UInt64
    /// Tokens that were not evaluated because of it.
    public let prefixTokens: UInt64
    /// Tokens that sequences lost to make room, or by `Context.shift`.
    public let removedTokens: UInt64

    init(_ perf: umrt_perf) {
        prefillTokens = perf.n_prefill_tokens
        decodeTokens = perf.n_decode_tokens
        evaluations = perf.n_evals
        prefillTime = .nanoseconds(perf.prefill_ns)
        decodeTime = .nanoseconds(perf.decode_ns)
        prefixHits = perf.n_prefix_hits
        prefixTokens = perf.n_prefix_tokens
        removedTokens = perf.n_removed_tokens
    }

    /// Tokens per second.
    public var prefillRate: Double {
        rate(prefillTokens, in: prefillTime)
    }

    /// Tokens per second.
    public var decodeRate: Double {
        rate(decodeTokens, in: decodeTime)
    }
}

/// Per second; 0 if no time passed.
func rate(_ n: UInt64, in time: Duration) -> Double {
    let seconds: Double = time / .seconds(1)
    return seconds > 0 ? Double(n) / seconds : 0
}
