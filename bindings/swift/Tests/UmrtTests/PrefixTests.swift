import Testing
import Umrt

extension UmrtTests {
    @Suite struct PrefixTests {
        func text(_ count: Int) -> [Token] {
            (0..<count).map { place in Token(1 + place * 37 % 89) }
        }

        @Test func aKnownBeginningIsNotEvaluatedAgain() async throws {
            let model = try await Model.open(plainPath)
            try model.setPrefixCache(maximumBytes: 1 << 30)
            var options = Context.Options(tokensPerSequence: 512)
            options.usesPrefixCache = true
            let tokens = text(300)
            var first: Context? = try await model.makeContext(options: options)
            try await first?.evaluate(tokens)
            let expected = try await first?.logits() ?? []
            try await first?.trim(keeping: 0)
            first = nil
            #expect(try Memory.statistics().prefixCache > 0)

            let second = try await model.makeContext(options: options)
            let known = try await second.reusePrefix(of: tokens)
            #expect(known == tokens.count - 1)
            try await second.evaluate(Array(tokens[known...]))
            for (one, other) in zip(try await second.logits(), expected) {
                #expect(abs(one - other) < 1e-4)
            }
            let performance = try await second.performance()
            #expect(performance.prefixHits == 1 && performance.prefixTokens == UInt64(known))
            #expect(try await second.reusePrefix(of: Array(tokens[..<5])) == 4)
            await #expect(throws: UmrtError.self) { try await second.reusePrefix(of: []) }
            #expect(try Memory.trim(.prefixCaches).prefixCaches > 0)
        }

        @Test func aContextWithoutACacheKeepsNothing() async throws {
            let context = try await Model.open(plainPath).makeContext(
                options: .init(tokensPerSequence: 512))
            try await context.evaluate(text(300))
            try await context.trim(keeping: 0)
            #expect(try await context.reusePrefix(of: text(300)) == 0)
        }

        @Test func aSequenceLosesTokensByHandOrToMakeRoom() async throws {
            let model = try await Model.open(plainPath)
            var options = Context.Options(tokensPerSequence: 100)
            let context = try await model.makeContext(options: options)
            let tokens = text(100)
            try await context.evaluate(tokens)
            await #expect { try await context.evaluate([1]) } throws: {
                ($0 as? UmrtError)?.status == .noSpace
            }
            try await context.shift(from: 10, removing: 20)
            #expect(try await context.tokens() == Array(tokens[..<10] + tokens[30...]))
            #expect(try await context.performance().removedTokens == 20)
            await #expect(throws: UmrtError.self) {
                try await context.shift(from: 80, removing: 1)
            }

            options.overflow = .shift(keeping: 4)
            let sliding = try await model.makeContext(options: options)
            try await sliding.evaluate(tokens)
            try await sliding.evaluate([1])
            #expect(try await sliding.tokens() == Array(tokens[..<4] + tokens[52...] + [1]))
            options.overflow = .shift(keeping: 100)
            await #expect(throws: UmrtError.self) { try await model.makeContext(options: options) }
        }
    }
}
