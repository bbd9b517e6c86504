import Testing
import Umrt

extension UmrtTests {
    @Suite struct ErrorTests {
        /// The error of a call that has to fail.
        func failure<Result>(_ body: () async throws -> Result) async throws -> UmrtError {
            do {
                _ = try await body()
            } catch let error as UmrtError {
                return error
            }
            Issue.record("nothing was thrown")
            throw CancellationError()
        }

        @Test func aMissingModelIsNamed() async throws {
            let error = try await failure { try await Model.open("/not/there") }
            #expect(error.status == .notFound)
            #expect(error.message.contains("/not/there"))
            #expect(error.description.hasPrefix("NOT_FOUND: "))
        }

        @Test func aModelWithoutATokenizerCannotSpeak() async throws {
            let model = try await Model.open(plainPath)
            #expect(try model.specialToken(.beginning) == nil)
            let context = try await model.makeContext()
            let error = try await failure { try await context.complete("Hello") }
            #expect(error.status == .notFound)
            #expect(error.message.contains("tokenizer"))
        }

        @Test func whatIsWrongWithAConstraintIsTold() async throws {
            let model = try await Model.open(chatPath)
            let cases: [(Constraint.Kind, Status)] = [
                (.regex("("), .invalidArgument),
                (.jsonSchema("{"), .invalidArgument),
                (.jsonSchema(#"{"not": {}}"#), .unsupported),
            ]
            for (kind, status) in cases {
                let error = try await failure { try await model.makeConstraint(kind) }
                #expect(error.status == status)
            }
        }

        @Test func failuresComeOutOfTheStream() async throws {
            let context = try await Model.open(chatPath).makeContext()
            let cases: [(AsyncThrowingStream<String, any Error>, String)] = [
                (context.generate(.tokens([])), "no tokens"),
                (context.generate("a", sequence: 3), "sequence 3"),
                (context.generate("a", sampling: Sampling(topP: 2)), "top_p"),
                (context.generate(.chat([])), "messages is empty"),
                (context.generate("a\0b"), "NUL"),
                (context.generate("a", maxTokens: -1), "maxTokens is -1"),
                (context.generate("a", stop: [""]), "stop string"),
            ]
            for (stream, message) in cases {
                let error = try await failure { try await collect(stream) }
                #expect(error.status == .invalidArgument)
                #expect(error.message.contains(message), "\(error)")
            }
            #expect(try await context.length() == 0)
        }

        @Test func aPromptThatDoesNotFitChangesNothing() async throws {
            let model = try await Model.open(chatPath)
            let context = try await model.makeContext(options: .init(tokensPerSequence: 8))
            let error = try await failure {
                try await context.evaluate([Token](repeating: 5, count: 9))
            }
            #expect(error.status == .noSpace)
            #expect(try await context.length() == 0)
        }

        @Test func whatDoesNotFitIntoMemoryIsRefused() async throws {
            let model = try await Model.open(chatPath)
            var options = Context.Options(tokensPerSequence: 1_000_000, sequenceCount: 1000)
            options.memoryLimitBytes = 1 << 20
            let error = try await failure { try await model.makeContext(options: options) }
            #expect(error.status == .overBudget)
        }
    }
}
