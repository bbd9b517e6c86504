import CUmrt

/// What a generated text may be, compiled for a model's tokens. Immutable; any number of
/// generations of the model use it, at the same time, too.
///
///     let date = try await model.makeConstraint(.regex("[0-9]{4}-[0-9]{2}-[0-9]{2}"))
///     let answer = try await context.complete("It was on ", constraint: date)
public final class Constraint: Sendable {
    let handle: Handle

    /// What a text is held to.
    public enum Kind: Hashable, Sendable {
        /// JSON that this JSON Schema describes.
        case jsonSchema(String)
        /// Any JSON object.
        case json
        /// A text that this regular expression matches as a whole.
        case regex(String)
        /// A text of the rule `start` of this grammar, in llguidance's variant of Lark's
        /// syntax.
        case grammar(String)

        fileprivate var native: (kind: UInt32, text: String) {
            switch self {
            case .jsonSchema(let schema): (UInt32(UMRT_CONSTRAINT_JSON_SCHEMA), schema)
            case .json: (UInt32(UMRT_CONSTRAINT_JSON), "")
            case .regex(let expression): (UInt32(UMRT_CONSTRAINT_REGEX), expression)
            case .grammar(let grammar): (UInt32(UMRT_CONSTRAINT_GRAMMAR), grammar)
            }
        }
    }

    fileprivate init(_ kind: Kind, of model: Handle) throws {
        let (kind, text) = kind.native
        handle = try model.use { model in
            try Handle(free: umrt_constraint_free) {
                umrt_constraint_new(model, kind, text, text.utf8.count, &$0)
            }
        }
    }
}

extension Model {
    /// Compiles a constraint. The first one of a model takes its vocabulary apart, which
    /// takes seconds where that is large.
    ///
    /// - Throws: `UmrtError` with `.invalidArgument` (says what is wrong with the text, and
    ///   where), `.unsupported` (names what: keywords of JSON Schema, kinds of tokenizers),
    ///   `.notFound` (no tokenizer), `.format` (it is broken) or `.outOfMemory`.
    public func makeConstraint(_ kind: Constraint.Kind) async throws -> Constraint {
        try await Worker("umrt.constraint").run { _ in
            try Constraint(kind, of: self.handle)
        }
    }
}
