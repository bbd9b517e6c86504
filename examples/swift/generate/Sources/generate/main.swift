// generate MODEL [PROMPT] [MAX_TOKENS]
//
// Streams what the model writes, then shows where the memory went and how fast it was.

import Foundation
import Umrt

func row(_ name: String, _ bytes: UInt64) {
    let amount = ByteCountFormatter.string(fromByteCount: Int64(bytes), countStyle: .memory)
    print("  \(name.padding(toLength: 20, withPad: " ", startingAt: 0))\(amount)")
}

let arguments = CommandLine.arguments.dropFirst()
guard let path = arguments.first, arguments.count <= 3 else {
    print("usage: generate MODEL [PROMPT] [MAX_TOKENS]")
    exit(2)
}
let prompt = arguments.dropFirst().first ?? "Once upon a time"
let maxTokens = arguments.dropFirst(2).first.flatMap { Int($0) } ?? 200

do {
    let model = try await Model.open(path)
    let context = try await model.makeContext()

    print(prompt, terminator: "")
    for try await piece in context.generate(.text(prompt), maxTokens: maxTokens) {
        print(piece, terminator: "")
    }

    let memory = try Memory.statistics()
    print("\n\nMemory")
    row("weights, mapped", memory.weightsMapped)
    row("KV cache", memory.keyValuesReserved)
    row("logits", memory.logits)
    row("scratch", memory.scratch)
    row("usable by models", memory.usable)
    let speed = try await context.performance()
    print("\nSpeed\n  \(Int(speed.decodeRate)) tokens/s")
} catch {
    print("\n\(error)")
    exit(1)
}
