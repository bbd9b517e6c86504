import CUmrt

extension Model {
    /// Splits text into tokens.
    ///
    /// - Parameters:
    ///   - addsSpecial: Add what the model expects around a text, such as a token that
    ///     begins it. Leave it off for rendered chats, which contain it.
    ///   - parsesSpecial: Read the spelling of a special token as that token. Leave it
    ///     off for text from users, who could otherwise write control tokens.
    /// - Throws: `UmrtError` with `.notFound` (no tokenizer) or `.format` (it is broken).
    public func tokenize(
        _ text: String, addsSpecial: Bool = true, parsesSpecial: Bool = false
    ) throws -> [Token] {
        let flags =
            (addsSpecial ? UInt32(UMRT_TOKENIZE_ADD_SPECIAL) : 0)
            | (parsesSpecial ? UInt32(UMRT_TOKENIZE_PARSE_SPECIAL) : 0)
        return try withUTF8(text) { start, length in
            try handle.use { model in
                try collect(expecting: length + 8) {
                    umrt_tokenize(model, start, length, flags, $0, $1, &$2)
                }
            }
        }
    }

    /// Joins tokens to text. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (an id out of range), `.notFound`
    ///   (no tokenizer) or `.format` (it is broken).
    public func detokenize(_ tokens: [Token], skipsSpecial: Bool = false) throws -> String {
        let flags = skipsSpecial ? UInt32(UMRT_DETOKENIZE_SKIP_SPECIAL) : 0
        return try handle.use { model in
            try collectText(expecting: 8 * tokens.count) {
                umrt_detokenize(model, tokens, tokens.count, flags, $0, $1, &$2)
            }
        }
    }

    /// Describes one token.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (no such token), `.notFound` (no
    ///   tokenizer) or `.format` (it is broken).
    public func tokenInfo(_ token: Token) throws -> TokenInfo {
        try TokenInfo(
            token,
            .filled { info in handle.use { umrt_token_info_get($0, token, &info) } })
    }

    /// The token with a role; nil if the model has none.
    ///
    /// - Throws: `UmrtError` with `.format` (the tokenizer is broken).
    public func specialToken(_ role: SpecialToken) throws -> Token? {
        try nilIfNotFound {
            var token: Token = 0
            try handle.call { umrt_special_token($0, role.rawValue, &token) }
            return token
        }
    }

    /// Renders a conversation as the prompt that the model was trained on. Tokenize it
    /// with `addsSpecial: false, parsesSpecial: true`.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (malformed JSON, or the template
    ///   refuses the conversation and says why), `.notFound` (no template) or `.format`
    ///   (it is broken).
    public func render(_ chat: Chat) throws -> String {
        try withUTF8(chat.json) { start, length in
            try handle.use { model in
                try collectText(expecting: 2 * length + 512) {
                    umrt_chat_render(model, start, length, $0, $1, &$2)
                }
            }
        }
    }
}

/// What one token stands for.
public struct TokenInfo: Hashable, Sendable {
    public let token: Token
    /// What it adds to a text; may be a part of a character.
    public let bytes: [UInt8]
    /// A control token, without text for people.
    public let isSpecial: Bool
    /// It ends a text.
    public let endsText: Bool
    /// One byte of a character that has no token.
    public let isByte: Bool

    init(_ token: Token, _ info: umrt_token_info) {
        self.token = token
        bytes = Array(UnsafeBufferPointer(start: info.bytes, count: Int(info.n_bytes)))
        isSpecial = info.flags & UInt32(UMRT_TOKEN_SPECIAL) != 0
        endsText = info.flags & UInt32(UMRT_TOKEN_END) != 0
        isByte = info.flags & UInt32(UMRT_TOKEN_BYTE) != 0
    }
}

/// A role that a token may have.
public enum SpecialToken: Int32, CaseIterable, Sendable {
    /// Begins a text.
    case beginning = 0
    /// Ends a text.
    case end = 1
    /// Stands for what the vocabulary lacks.
    case unknown = 2
    /// Between texts.
    case separator = 3
    /// Fills up batches.
    case padding = 4
    /// Stands for the whole text.
    case classification = 5
    /// Hides a word.
    case mask = 6
}

/// Turns a stream of tokens into text, without special tokens.
public final class Detokenizer {
    private let handle: Handle

    /// - Throws: `UmrtError` with `.notFound` (no tokenizer) or `.format` (it is broken).
    public init(_ model: Model) throws {
        handle = try model.handle.use { model in
            try Handle(free: umrt_detok_free) { umrt_detok_new(model, &$0) }
        }
    }

    /// Adds a token; returns the text that became certain, often none.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (an id out of range).
    public func push(_ token: Token) throws -> String {
        try certainText { umrt_detok_push($0, token, &$1, &$2) }
    }

    /// The rest of the text, with U+FFFD for an incomplete character; the next token
    /// begins a new text.
    public func finish() throws -> String {
        try certainText { umrt_detok_finish($0, &$1, &$2) }
    }

    private func certainText(
        _ function: (OpaquePointer, inout UnsafePointer<CChar>?, inout Int) -> umrt_status
    ) throws -> String {
        try handle.use { detok in
            var start: UnsafePointer<CChar>?
            var length = 0
            try check(function(detok, &start, &length))
            return text(at: start, length: length)
        }
    }
}

/// UTF-8 text of the C API, which only has whole characters.
func text(at start: UnsafePointer<CChar>?, length: Int) -> String {
    let bytes = UnsafeRawBufferPointer(start: start, count: length)
    return String(decoding: bytes, as: UTF8.self)
}

/// Calls `body` with a text's bytes as the C API takes them.
func withUTF8<Result>(
    _ text: String, _ body: (UnsafePointer<CChar>?, Int) throws -> Result
) rethrows -> Result {
    var text = text
    return try text.withUTF8 { bytes in
        try bytes.withMemoryRebound(to: CChar.self) { try body($0.baseAddress, $0.count) }
    }
}
