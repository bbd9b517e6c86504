import CUmrt

extension Model {
    /// Sets how many bytes the model's prefix cache may hold beside sequences: keys and
    /// values of texts that were evaluated, for others that begin alike. Contexts use it
    /// whose `Context.Options.usesPrefixCache` says so. Before the first call it is an
    /// eighth of what models may use.
    ///
    /// What it holds is reserved for nobody: it is given back as soon as a model or context
    /// reserves the memory, and under memory pressure.
    ///
    /// - Parameter maximumBytes: 0 empties it and keeps nothing.
    public func setPrefixCache(maximumBytes: UInt64) throws {
        try handle.call { umrt_model_prefix_cache_set($0, maximumBytes) }
    }
}

extension Context {
    /// Makes a sequence hold as much of the beginning of `tokens` as is known already: what
    /// it holds itself, or what the prefix cache does if that is more and the context uses
    /// it. What the sequence held beyond that is forgotten.
    ///
    /// Evaluate the rest; that is at least the last token, whose logits nobody kept:
    ///
    ///     let known = try await context.reusePrefix(of: tokens)
    ///     try await context.evaluate(Array(tokens[known...]))
    ///
    /// - Returns: How many tokens the sequence holds now.
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence, no tokens) or
    ///   `.outOfMemory` (the sequence is as before).
    @discardableResult
    public func reusePrefix(of tokens: [Token], sequence: Int = 0) async throws -> Int {
        try await worker.run { _ in
            var known: UInt32 = 0
            try self.handle.call {
                umrt_seq_reuse_prefix(
                    $0, Int32(clamping: sequence), tokens, tokens.count, &known)
            }
            return Int(known)
        }
    }

    /// Removes tokens of a sequence. Those behind them move to their places, and their keys
    /// are turned to their new positions. What they have seen of the removed tokens stays in
    /// them, as in all sliding windows. Keys are rounded once more to their type each time.
    ///
    /// - Parameters:
    ///   - start: The place of the first token to remove.
    ///   - removed: How many.
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence, or it holds fewer
    ///   tokens), `.unsupported` (a model with latent attention) or `.outOfMemory` (the
    ///   sequence is as before).
    public func shift(_ sequence: Int = 0, from start: Int, removing removed: Int) async throws {
        let start = try count("from", start)
        let removed = try count("removing", removed)
        try await call { umrt_seq_shift($0, Int32(clamping: sequence), start, removed) }
    }
}
