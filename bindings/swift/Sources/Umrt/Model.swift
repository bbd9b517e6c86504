import CUmrt

/// The number of a token in a model's vocabulary.
public typealias Token = Int32

/// An opened checkpoint. Immutable; any number of tasks and contexts share it.
///
///     let model = try await Model.open("path/to/model")
///     let context = try await model.makeContext()
///     for try await piece in context.generate("Once upon a time") {
///         print(piece, terminator: "")
///     }
///
/// Its weights stay mapped until the model and all that was made from it are gone,
/// in any order.
public final class Model: Sendable {
    let handle: Handle

    /// The directory or file that it was opened from.
    public let path: String

    /// What the checkpoint is.
    public let info: ModelInfo

    private init(handle: Handle, path: String) throws {
        self.handle = handle
        self.path = path
        info = try ModelInfo(
            .filled { info in handle.use { umrt_model_info_get($0, &info) } })
    }

    /// How to open a checkpoint.
    public struct Options: Hashable, Sendable {
        /// Where to compute.
        public var device = Device.automatic
        /// Which of the GPUs, with `.gpu`; see `Library.devices`.
        public var gpuIndex = 0
        /// What to compute in.
        public var precision = Precision.native
        /// Which operations a CPU uses.
        public var cpuOperations = CPUOperations.kernels
        /// How the files come into memory.
        public var loading = Loading.map
        /// Bytes that the model may take at most, without its contexts. 0: what the
        /// memory budget leaves.
        public var memoryLimitBytes: UInt64 = 0
        /// Open the model even if its weights exceed the memory budget. What does not
        /// stay in memory is read from disk for every token, which is slow.
        public var allowsPaging = false

        public init() {}

        func native() throws -> umrt_model_params {
            var params = umrt_model_params.initialized
            params.device = device.rawValue
            params.gpu_index = try count("gpuIndex", gpuIndex)
            params.precision = precision.rawValue
            params.cpu_ops = cpuOperations.rawValue
            params.load = loading.rawValue
            params.memory_limit = memoryLimitBytes
            params.flags = allowsPaging ? UInt32(UMRT_MODEL_ALLOW_PAGING) : 0
            return params
        }
    }

    /// Where to compute.
    public enum Device: UInt32, Sendable {
        /// The GPU if there is one, otherwise the CPU.
        case automatic = 0
        case cpu = 1
        case gpu = 2
    }

    /// What to compute in.
    public enum Precision: UInt32, Sendable {
        /// The type that the checkpoint was published in.
        case native = 0
        /// Exact, but with a KV cache twice as large as for 16-bit checkpoints.
        case float32 = 1
    }

    /// Which operations a CPU uses.
    public enum CPUOperations: UInt32, Sendable {
        /// umrt's own kernels, unless the environment variable UMRT_CPU_OPS is "stock".
        case kernels = 0
        /// MLX's operations, which are what runs on GPUs. Slow; for comparisons.
        case stock = 1
    }

    /// How the files come into memory.
    public enum Loading: UInt32, Sendable {
        /// Mapped: nothing is read before it is used. The files must not be changed
        /// meanwhile.
        case map = 0
        /// Read into private memory at once. The files may change afterwards.
        case read = 1
        /// Read past the page cache, so that there is no second copy.
        case direct = 2
    }

    /// Opens a checkpoint by mapping it: the weights are not read before they are
    /// used, and are not copied. Cancelling the task stops it.
    ///
    /// - Parameters:
    ///   - path: A directory with config.json and safetensors files, or a GGUF file.
    ///   - progress: Hears of layers, or of bytes where weights are read.
    /// - Throws: `UmrtError` with `.notFound`, `.io`, `.format` (what is wrong in which
    ///   file), `.unsupported` (names what), `.overBudget` (says by how much),
    ///   `.outOfMemory` or `.backend`; `CancellationError`.
    public static func open(
        _ path: String,
        options: Options = Options(),
        progress: LoadProgress.Report? = nil
    ) async throws -> Model {
        let path = try cText("path", path)
        return try await Worker("umrt.open").run { cancel in
            let native = try options.native()
            let handle = try Handle(free: umrt_model_free) { model in
                withProgress(progress) { report, userdata in
                    cancel.use { cancel in
                        var params = native
                        params.progress = report
                        params.progress_userdata = userdata
                        params.cancel = cancel
                        return umrt_model_open(path, &params, &model)
                    }
                }
            }
            return try Model(handle: handle, path: path)
        }
    }

    /// Reads what a checkpoint is from its headers; no weight is touched.
    ///
    /// - Throws: `UmrtError` with `.notFound`, `.io`, `.format` or `.unsupported`.
    public static func inspect(_ path: String) throws -> ModelInfo {
        let path = try cText("path", path)
        return try ModelInfo(.filled { umrt_model_inspect(path, &$0) })
    }

    /// A new context of this model. All that full sequences and the largest step need
    /// is reserved here.
    ///
    /// - Throws: `UmrtError` with `.overBudget` (says how much is missing and what would
    ///   fit), `.unsupported` (the model's heads do not divide into the groups of
    ///   `keysAndValues`), `.invalidArgument` or `.backend`.
    public func makeContext(options: Context.Options = Context.Options()) async throws -> Context {
        try await Context(self, options: options)
    }

    /// A value of the checkpoint's config.json: a string as it is, anything else as
    /// JSON; nil if there is no such key.
    ///
    /// - Parameter key: A name, or a path of names with dots: "rope_scaling.factor".
    public func metadata(_ key: String) throws -> String? {
        let key = try cText("key", key)
        return try nilIfNotFound {
            try handle.use { model in
                try collectText(expecting: 256) { umrt_model_metadata(model, key, $0, $1, &$2) }
            }
        }
    }

    /// The model's own memory: the weights, and the tokenizer if it was used.
    public func memory() throws -> MemoryStatistics {
        try MemoryStatistics(
            .filled { memory in handle.use { umrt_model_memory_stats($0, &memory) } })
    }

    /// Whether weights are in memory.
    public enum Residency: UInt32, Sendable {
        /// Weights come in as they are used. This is how models are opened.
        case mapped = 0
        /// All weights are read now, so that the first token does not wait for the disk.
        case warm = 1
        /// As `warm`, and the system keeps them in memory.
        case locked = 2
        /// All pages leave the process. They come back as they are used.
        case released = 3
    }

    /// Brings the weights into memory, locks them there, or lets them go. Cancelling
    /// the task stops it.
    ///
    /// - Parameters:
    ///   - dropsCache: With `.released`, the page cache is asked to forget the files as
    ///     well (Linux only).
    ///   - progress: Hears of bytes.
    /// - Throws: `UmrtError` with `.io` (the disk failed, or a file was changed),
    ///   `.overBudget` (the limit of locked memory), `.unsupported` or `.outOfMemory`;
    ///   `CancellationError`.
    public func setResidency(
        _ residency: Residency,
        dropsCache: Bool = false,
        progress: LoadProgress.Report? = nil
    ) async throws {
        try await Worker("umrt.residency").run { cancel in
            try self.handle.call { model in
                withProgress(progress) { report, userdata in
                    cancel.use { cancel in
                        var params = umrt_residency_params.initialized
                        params.flags = dropsCache ? UInt32(UMRT_RESIDENCY_DROP_CACHE) : 0
                        params.progress = report
                        params.progress_userdata = userdata
                        params.cancel = cancel
                        return umrt_model_residency(model, residency.rawValue, &params)
                    }
                }
            }
        }
    }

    /// Says which models give way to this one and when it gives way itself.
    ///
    /// - Parameters:
    ///   - isPinned: It never gives way.
    ///   - priority: Models with less give way first; among equals the one unused for
    ///     longest.
    ///   - idleMilliseconds: Unused for so long it is released; 0: it is not.
    /// - Throws: `UmrtError` with `.overBudget` if it cannot be pinned beside what else
    ///   must stay.
    public func setPolicy(
        isPinned: Bool = false, priority: Int32 = 0, idleMilliseconds: UInt32 = 0
    ) throws {
        var policy = umrt_model_policy.initialized
        policy.pinned = isPinned ? 1 : 0
        policy.priority = priority
        policy.idle_timeout_ms = idleMilliseconds
        try handle.call { umrt_model_policy_set($0, &policy) }
    }

    /// Opens a LoRA adapter for this model by mapping it; the model stays as it is.
    /// `Context.setAdapters` uses it.
    ///
    /// - Parameter path: A directory as mlx-lm or PEFT writes it.
    /// - Throws: `UmrtError` with `.notFound`, `.io`, `.format`, `.unsupported`,
    ///   `.overBudget`, `.outOfMemory` or `.backend`.
    public func openAdapter(_ path: String) throws -> Adapter {
        let path = try cText("path", path)
        return Adapter(
            handle: try handle.use { model in
                try Handle(free: umrt_adapter_free) { umrt_adapter_open(model, path, &$0) }
            })
    }
}

/// A LoRA adapter of a model. Immutable, for any of the model's contexts.
public final class Adapter: Sendable {
    let handle: Handle

    init(handle: Handle) {
        self.handle = handle
    }
}

/// What a checkpoint is.
public struct ModelInfo: Hashable, Sendable {
    /// The architecture's name, such as "llama".
    public let modelType: String
    /// Values in all weights.
    public let parameterCount: UInt64
    public let layerCount: Int
    public let hiddenSize: Int
    public let intermediateSize: Int
    public let headCount: Int
    public let keyValueHeadCount: Int
    public let headDimension: Int
    /// Token ids are below this.
    public let vocabularySize: Int
    /// Positions the model was trained for.
    public let maximumContext: Int
    /// Bits per quantized weight; nil: the weights are floats.
    public let quantizedBits: Int?
    /// Weights that share a scale; nil: the weights are floats.
    public let quantizedGroupSize: Int?
    /// Bytes of all tensors in the files.
    public let weightBytes: UInt64
    /// Bytes that each token adds to a sequence's KV cache.
    public let keyValueBytesPerToken: UInt64
    /// Whether text can be tokenized.
    public let hasTokenizer: Bool
    /// Whether messages can be rendered.
    public let hasChatTemplate: Bool
    /// Where it computes; nil if the model was only inspected.
    public let device: Model.Device?

    init(_ info: umrt_model_info) {
        modelType = text(in: info.model_type)
        parameterCount = info.n_parameters
        layerCount = Int(info.n_layers)
        hiddenSize = Int(info.hidden_size)
        intermediateSize = Int(info.intermediate_size)
        headCount = Int(info.n_heads)
        keyValueHeadCount = Int(info.n_kv_heads)
        headDimension = Int(info.head_dim)
        vocabularySize = Int(info.vocab_size)
        maximumContext = Int(info.max_context)
        quantizedBits = info.quant_bits == 0 ? nil : Int(info.quant_bits)
        quantizedGroupSize = info.quant_group_size == 0 ? nil : Int(info.quant_group_size)
        weightBytes = info.weight_bytes
        keyValueBytesPerToken = info.kv_bytes_per_token
        hasTokenizer = info.has_tokenizer != 0
        hasChatTemplate = info.has_chat_template != 0
        device = info.device == 0 ? nil : Model.Device(rawValue: info.device)
    }
}

/// nil where the C API says that there is nothing of that name.
func nilIfNotFound<Value>(_ body: () throws -> Value) throws -> Value? {
    do {
        return try body()
    } catch let error as UmrtError where error.status == .notFound {
        return nil
    }
}
