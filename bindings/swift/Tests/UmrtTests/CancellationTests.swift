import Testing
import Umrt

extension UmrtTests {
    @Suite struct CancellationTests {
        /// Far more than is generated before the cancellation.
        static let manyTokens = 100_000

        func longContext() async throws -> Context {
            try await Model.open(chatPath).makeContext(
                options: .init(tokensPerSequence: Self.manyTokens))
        }

        @Test func cancellingTheReaderEndsTheLoopAndTheGeneration() async throws {
            let context = try await longContext()
            let (started, start) = AsyncStream<Void>.makeStream()
            let reader = Task {
                var count = 0
                for try await _ in context.generate("Hello", ignoresEnd: true) {
                    count += 1
                    start.yield()
                }
                return count
            }
            for await _ in started { break }
            reader.cancel()
            #expect(try await reader.value > 0)
            let length = try await context.length()
            #expect(length > 0 && length < Self.manyTokens)
        }

        @Test func leavingTheLoopEndsTheGeneration() async throws {
            let context = try await longContext()
            for try await _ in context.generate("Hello", ignoresEnd: true) {
                break
            }
            let length = try await context.length()
            #expect(length > 0 && length < Self.manyTokens)
            #expect(try await context.complete("and on", maxTokens: 3).result.tokens > 0)
        }

        @Test func aCancelledCompletionThrows() async throws {
            let context = try await longContext()
            let task = Task {
                try await context.complete("Hello", ignoresEnd: true)
            }
            try await Task.sleep(for: .milliseconds(50))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(try await context.length() < Self.manyTokens)
        }

        @Test func aCancelledEvaluationLeavesTheSequenceAsItWas() async throws {
            let context = try await longContext()
            try await context.evaluate([1, 2, 3])
            let task = Task {
                try await context.evaluate([Token](repeating: 5, count: Self.manyTokens - 10))
            }
            try await Task.sleep(for: .milliseconds(50))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(try await context.tokens() == [1, 2, 3])
        }

        @Test func anEvaluationThatTakesTooLongLeavesTheSequenceAsItWas() async throws {
            let context = try await longContext()
            try await context.evaluate([1, 2, 3])
            let tokens = [Token](repeating: 5, count: Self.manyTokens - 10)
            await #expect {
                try await context.evaluate(tokens, timeout: .milliseconds(50))
            } throws: {
                ($0 as? UmrtError)?.status == .deadlineExceeded
            }
            #expect(try await context.tokens() == [1, 2, 3])
        }

        @Test func aTaskThatIsCancelledBeforeOpensNothing() async throws {
            let task = Task {
                withUnsafeCurrentTask { $0?.cancel() }
                return try await Model.open(chatPath)
            }
            await #expect(throws: CancellationError.self) { try await task.value }
        }
    }
}
