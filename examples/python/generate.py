"""Streams a continuation of a prompt, then shows what memory was used for."""

import sys

import umrt


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL_FOLDER PROMPT")
    folder, prompt = sys.argv[1:]
    with umrt.Model.open(folder) as model, model.context() as context:
        generation = context.generate(
            prompt, max_tokens=200, temperature=0.8, top_p=0.95
        )
        for piece in generation:
            print(piece, end="", flush=True)
        print(f"\n\n{generation.result.tokens_per_second:.1f} tokens/s\n")
        print(umrt.memory_stats())


if __name__ == "__main__":
    main()
