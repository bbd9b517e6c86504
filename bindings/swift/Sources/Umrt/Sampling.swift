import CUmrt

/// How to choose a token. 0 means off; all zero is greedy decoding.
///
/// The stages come in this order: penalties, temperature, top-k, top-p, min-p.
public struct Sampling: Hashable, Sendable {
    /// Divides the logits: 0 to 100. 0 takes the most likely token.
    public var temperature: Float
    /// Keeps this many of the most likely tokens.
    public var topK: Int
    /// Keeps the most likely tokens that add up to this probability: 0 to 1.
    public var topP: Float
    /// Drops tokens less likely than this times the most likely: 0 to 1.
    public var minP: Float
    /// Divides positive and multiplies negative logits of tokens in the window: 0 to
    /// 100; 1 is off too.
    public var repetitionPenalty: Float
    /// Subtracted from the logit of a token in the window: -100 to 100.
    public var presencePenalty: Float
    /// Subtracted for each time that a token is in the window: -100 to 100.
    public var frequencyPenalty: Float
    /// How many of the last tokens the penalties look at, up to 2^20.
    public var repetitionWindow: Int
    /// The same seed gives the same tokens, on every machine.
    public var seed: UInt64

    public init(
        temperature: Float = 0,
        topK: Int = 0,
        topP: Float = 0,
        minP: Float = 0,
        repetitionPenalty: Float = 0,
        presencePenalty: Float = 0,
        frequencyPenalty: Float = 0,
        repetitionWindow: Int = 0,
        seed: UInt64 = 0
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.presencePenalty = presencePenalty
        self.frequencyPenalty = frequencyPenalty
        self.repetitionWindow = repetitionWindow
        self.seed = seed
    }

    /// Always the most likely token.
    public static let greedy = Sampling()

    func native() throws -> umrt_sampler_params {
        var params = umrt_sampler_params.initialized
        params.temperature = temperature
        params.top_k = try count("topK", topK)
        params.top_p = topP
        params.min_p = minP
        params.repetition_penalty = repetitionPenalty
        params.presence_penalty = presencePenalty
        params.frequency_penalty = frequencyPenalty
        params.repetition_window = try count("repetitionWindow", repetitionWindow)
        params.seed = seed
        return params
    }
}

/// Chooses tokens, and remembers them for penalties. Takes one call at a time; an
/// overlapping second one throws `.busy`.
public final class Sampler: Sendable {
    let handle: Handle

    /// - Throws: `UmrtError` with `.invalidArgument`, which names the field and its range.
    public init(_ sampling: Sampling = .greedy) throws {
        var params = try sampling.native()
        handle = try Handle(free: umrt_sampler_free) { umrt_sampler_new(&params, &$0) }
    }

    /// Goes back to the beginning: the seed again, no remembered tokens.
    public func reset() throws {
        try handle.call { umrt_sampler_reset($0) }
    }

    /// Remembers a token that was not chosen by this sampler, such as those of a
    /// prompt, for the penalties.
    public func accept(_ token: Token) throws {
        try handle.call { umrt_sampler_accept($0, token) }
    }
}
