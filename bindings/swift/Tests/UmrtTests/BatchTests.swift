import Testing
import Umrt

extension UmrtTests {
    @Suite struct BatchTests {
        @Test func textsOfABatchAreThoseOfOneAfterTheOther() async throws {
            var options = Model.Options()
            options.precision = .float32
            let model = try await Model.open(talesPath, options: options)
            let prompts: [Prompt] = ["Once upon a time", "The fox", "Sam had a", "One day"]
            let alone = try await model.makeContext()
            var expected: [String] = []
            for prompt in prompts {
                expected.append(try await alone.complete(prompt, maxTokens: 24).text)
                try await alone.trim(keeping: 0)
            }
            let context = try await model.makeContext(
                options: .init(tokensPerSequence: 128, sequenceCount: 2))
            let results = try await context.complete(
                prompts.map { GenerationRequest($0, maxTokens: 24) })
            #expect(try results.map { try $0.get().text } == expected)
            #expect(try await context.length(0) == 0)
        }

        @Test func oneRequestsFailureIsItsOwn() async throws {
            let context = try await Model.open(talesPath).makeContext(
                options: .init(tokensPerSequence: 16, sequenceCount: 2))
            let tooLong = [Token](repeating: 5, count: 17)
            let results = try await context.complete([
                GenerationRequest(.tokens(tooLong)), GenerationRequest("Once", maxTokens: 4),
            ])
            #expect(throws: UmrtError.self) { try results[0].get() }
            #expect(try results[1].get().result.tokens == 4)
        }

        @Test func cancellingTheTaskStopsAll() async throws {
            let context = try await Model.open(chatPath).makeContext(
                options: .init(tokensPerSequence: 50_000, sequenceCount: 2))
            let task = Task {
                try await context.complete([
                    GenerationRequest("a", ignoresEnd: true),
                    GenerationRequest("b", ignoresEnd: true),
                ])
            }
            try await Task.sleep(for: .milliseconds(50))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(try await context.length() == 0)
        }
    }
}
