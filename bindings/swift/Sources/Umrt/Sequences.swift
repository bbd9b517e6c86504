import CUmrt

extension Context {
    /// How many tokens a sequence holds.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence).
    public func length(_ sequence: Int = 0) async throws -> Int {
        try await worker.run { _ in
            var length: UInt32 = 0
            try self.handle.call { umrt_seq_length($0, Int32(clamping: sequence), &length) }
            return Int(length)
        }
    }

    /// The tokens that a sequence holds.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence).
    public func tokens(_ sequence: Int = 0) async throws -> [Token] {
        try await worker.run { _ in
            try self.handle.use { context in
                try collect(expecting: 1024) {
                    umrt_seq_tokens(context, Int32(clamping: sequence), $0, $1, &$2)
                }
            }
        }
    }

    /// Makes a sequence hold the same tokens as another, in place of its own. It takes no
    /// time and no memory: what both hold is shared until one of them changes it.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence).
    public func fork(from source: Int, to target: Int) async throws {
        try await call { umrt_seq_fork($0, Int32(clamping: source), Int32(clamping: target)) }
    }

    /// Keeps the first tokens of a sequence and forgets the rest. Memory for 256 tokens is
    /// given back where none of them is left; with 0 all of it.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence, or it holds fewer).
    public func trim(_ sequence: Int = 0, keeping kept: Int) async throws {
        let kept = try count("keeping", kept)
        try await call { umrt_seq_trim($0, Int32(clamping: sequence), kept) }
    }

    /// Writes a sequence to a file: its tokens, and keys and values as they are stored, so
    /// that it goes on with the same logits after `load`. A file that is there already is
    /// replaced as a whole or, if anything fails, not at all.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence), `.notFound` (no such
    ///   directory), `.io` (the disk is full, for instance) or `.outOfMemory`.
    public func save(_ sequence: Int = 0, to path: String) async throws {
        let path = try cText("path", path)
        try await call { umrt_seq_save($0, Int32(clamping: sequence), path) }
    }

    /// Replaces what a sequence holds by what `save` wrote, in any context of the same model
    /// and `keysAndValues`. All of it is read and checked first: if anything fails, the
    /// sequence is as before.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence; saved with another
    ///   model or `keysAndValues`), `.notFound`, `.io`, `.format` (cut off, damaged, or
    ///   another kind of file), `.unsupported` (saved by a newer version), `.noSpace` (too
    ///   many tokens), `.overBudget` (no room for the former and the new content at once:
    ///   trim the sequence first) or `.outOfMemory`.
    public func load(_ sequence: Int = 0, from path: String) async throws {
        let path = try cText("path", path)
        try await call { umrt_seq_load($0, Int32(clamping: sequence), path) }
    }

    /// What `save` would write.
    public func saved(_ sequence: Int = 0) async throws -> [UInt8] {
        try await worker.run { _ in
            try self.handle.use { context in
                try collect(expecting: 0) {
                    umrt_seq_save_to_buffer(context, Int32(clamping: sequence), $0, $1, &$2)
                }
            }
        }
    }

    /// As `load(_:from:)`, from what `saved` gave.
    public func load(_ sequence: Int = 0, from saved: [UInt8]) async throws {
        try await call {
            umrt_seq_load_from_buffer($0, Int32(clamping: sequence), saved, saved.count)
        }
    }

    /// Writes a sequence as mlx-lm's `save_prompt_cache` would, with the tokens' ids among
    /// the metadata, for its `load_prompt_cache` and for `load(_:from:)`. Such files have no
    /// checksums and do not say which model they belong to.
    ///
    /// - Throws: `UmrtError` with `.unsupported` (latent attention), and as `save` does.
    public func exportMLX(_ sequence: Int = 0, to path: String) async throws {
        let path = try cText("path", path)
        try await call { umrt_seq_export_mlx($0, Int32(clamping: sequence), path) }
    }

    /// Replaces what a sequence holds by a prompt cache that mlx-lm saved. If anything
    /// fails, the sequence is as before.
    ///
    /// - Parameter tokens: the ids of all tokens that mlx-lm had evaluated, which its files
    ///   do not have; nil: those that `exportMLX` wrote.
    /// - Throws: `UmrtError` with `.invalidArgument` (other tokens than the file has, another
    ///   model or `keysAndValues`), `.unsupported` (another kind of cache than `KVCache` and
    ///   `QuantizedKVCache`, several sequences, latent attention), and as `load` does.
    public func importMLX(
        _ sequence: Int = 0, from path: String, tokens: [Token]? = nil
    ) async throws {
        let path = try cText("path", path)
        let sequence = Int32(clamping: sequence)
        try await call { context in
            guard let tokens else { return umrt_seq_import_mlx(context, sequence, path, nil, 0) }
            return umrt_seq_import_mlx(context, sequence, path, tokens, tokens.count)
        }
    }

    /// One sequence's own memory. What it shares with other sequences is included.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such sequence).
    public func memory(of sequence: Int) async throws -> MemoryStatistics {
        try await worker.run { _ in
            try MemoryStatistics(
                .filled { memory in
                    self.handle.use {
                        umrt_seq_memory_stats($0, Int32(clamping: sequence), &memory)
                    }
                })
        }
    }
}
