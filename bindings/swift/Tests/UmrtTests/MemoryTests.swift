import Foundation
import Testing
import Umrt

extension UmrtTests {
    @Suite struct MemoryTests {
        @Test func whatIsUsedIsCounted() async throws {
            let model = try await Model.open(talesPath)
            let context = try await model.makeContext()
            _ = try await context.complete("Once upon a time", maxTokens: 20)
            let memory = try Memory.statistics()
            #expect(memory.weightsMapped >= model.info.weightBytes)
            #expect(memory.keyValuesReserved > 0 && memory.logits > 0)
            #expect(memory.usable <= memory.physical && !memory.usableReason.isEmpty)
            let own = try await context.memory()
            #expect(own.keyValuesUsed > 0 && own.keyValuesUsed <= own.keyValuesReserved)
            let budget = try Memory.budget()
            #expect(budget.taken > 0 && budget.taken <= budget.usable)
        }

        @Test func sequencesComeBackFromDisk() async throws {
            let context = try await Model.open(plainPath).makeContext()
            try await context.evaluate([3, 5, 7])
            try Memory.spill(to: FileManager.default.temporaryDirectory.path)
            defer { try? Memory.spill(to: nil) }
            #expect(try Memory.trim(.idleSequences).sequenceCount >= 1)
            #expect(try await context.tokens() == [3, 5, 7])
            try await context.evaluate([9])
        }

        @Test func aDiagnosisHasAdvice() async throws {
            let context = try await Model.open(plainPath).makeContext(
                options: .init(tokensPerSequence: 16))
            try await context.evaluate([Token](repeating: 3, count: 15))
            let found = try await Memory.diagnose(context)
            #expect(found.tokens == 15)
            #expect(!found.text.isEmpty)
            #expect(try await Memory.diagnose().tokens == 0)
        }

        @Test func pressureGivesBackWhatIsIdle() async throws {
            let model = try await Model.open(talesPath)
            try await model.setResidency(.warm)
            #expect(try Memory.notify(pressure: .warning).modelCount >= 0)
            #expect(throws: UmrtError.self) { try Memory.notify(pressure: .unknown) }
            try Memory.notify(pressure: .normal)
        }

        @Test func aBudgetLimitsWhatMayBeUsed() async throws {
            defer { try? Memory.setBudget(nil) }
            try Memory.setBudget(.bytes(4 << 30))
            #expect(try Memory.budget().usable <= 4 << 30)
            try Memory.setBudget(.fraction(0.5))
            let budget = try Memory.budget()
            #expect(budget.usable <= budget.physical / 2)
        }

        @Test func messagesArriveUntilTheyAreTurnedOff() async throws {
            let messages = Box<[String]>([])
            Library.log(.debug) { _, message in messages.change { $0.append(message) } }
            _ = try await Model.open(plainPath)
            Library.stopLogging()
            #expect(!messages.value.isEmpty)
        }
    }
}
