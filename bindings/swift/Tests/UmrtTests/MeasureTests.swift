import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct MeasureTests {
        let tokens: [Token] = [5, 9, 17, 3, 80, 41]

        /// The natural logarithms of the probabilities that logits stand for.
        func logProbabilities(_ logits: [Float]) -> [Double] {
            let largest = Double(logits.max()!)
            let sum = logits.reduce(0) { $0 + exp(Double($1) - largest) }
            return logits.map { Double($0) - largest - log(sum) }
        }

        @Test func textsBecomeVectorsOfLengthOne() async throws {
            let model = try await Model.open(chatPath)
            let context = try await model.makeContext(options: .init(sequenceCount: 2))
            let texts = ["Hello", "Hello there", "17 + 4"]
            let vectors = try await context.embed(texts)
            #expect(vectors.map(\.count) == Array(repeating: model.info.hiddenSize, count: 3))
            for vector in vectors {
                let square = vector.reduce(0) { $0 + $1 * $1 }
                #expect(abs(square - 1) < 1e-4)
            }
            let tokens = try texts.map { try model.tokenize($0) }
            #expect(try await context.embed(tokens) == vectors)
            #expect(try await context.embed([String]()) == [])
            #expect(try await context.length(1) == 0)
        }

        @Test func poolingsAreOfTheSameStates() async throws {
            let context = try await Model.open(plainPath).makeContext()
            let first = try await context.embed([tokens], pooling: .first, isNormalized: false)
            let alone = try await context.embed(
                [[tokens[0]]], pooling: .last, isNormalized: false)
            for (one, other) in zip(first[0], alone[0]) {
                #expect(abs(one - other) < 1e-4)
            }
        }

        @Test func whatCannotBeEmbeddedIsRefused() async throws {
            let context = try await Model.open(plainPath).makeContext()
            await #expect { try await context.embed(["Hello"]) } throws: {
                ($0 as? UmrtError)?.status == .notFound
            }
            await #expect { try await context.embed([tokens, []]) } throws: {
                ($0 as? UmrtError)?.message.contains("text 1") == true
            }
            await #expect { try await context.embed(["a\0b"]) } throws: {
                ($0 as? UmrtError)?.status == .invalidArgument
            }
        }

        @Test func scoresAreLogProbabilities() async throws {
            let context = try await Model.open(plainPath).makeContext()
            let scores = try await context.score(
                [Array(tokens[3...]), [7]], after: Array(tokens[..<3]))
            #expect(scores.map(\.count) == [3, 1])
            #expect(try await context.length() == 0)
            try await context.evaluate(tokens.map { BatchToken($0, wantsLogits: true) })
            for (place, score) in scores[0].enumerated() {
                let expected = logProbabilities(try await context.logits(row: place + 2))
                #expect(abs(Double(score) - expected[Int(tokens[place + 3])]) < 1e-4)
            }
            let expected = logProbabilities(try await context.logits(row: 2))
            #expect(abs(Double(scores[1][0]) - expected[7]) < 1e-4)
            await #expect { try await context.score([[]], after: [1]) } throws: {
                ($0 as? UmrtError)?.message.contains("continuation 0") == true
            }
        }

        @Test func theMostLikelyTokensComeFirst() async throws {
            let context = try await Model.open(plainPath).makeContext()
            try await context.evaluate(tokens)
            let expected = logProbabilities(try await context.logits())
            let found = try await context.mostLikely(5)
            let order = expected.indices.sorted { expected[$0] > expected[$1] }
            #expect(found.map(\.token) == order[..<5].map { Token($0) })
            #expect(abs(Double(found[0].logProbability) - expected[order[0]]) < 1e-4)
            for refused in [0, expected.count + 1] {
                await #expect(throws: UmrtError.self) { try await context.mostLikely(refused) }
            }
            await #expect(throws: UmrtError.self) { try await context.mostLikely(1, row: 1) }
        }

        @Test func cancellingTheTaskStopsScoring() async throws {
            let context = try await Model.open(chatPath).makeContext(
                options: .init(tokensPerSequence: 50_000))
            let long = [Token](repeating: 5, count: 40_000)
            let task = Task { try await context.score([Array(long[1...])], after: [long[0]]) }
            try await Task.sleep(for: .milliseconds(20))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(try await context.length() == 0)
        }
    }
}
