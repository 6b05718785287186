"""PyTorch tensors through torch.multiprocessing inside one tenant: legacy IPC handles, and with expandable
segments descriptors. Prints one line of JSON."""
import json
import sys

import torch
import torch.multiprocessing as multiprocessing


def child(queue, answers):
    tensor = queue.get()
    answers.put(float(tensor.sum().item()))
    tensor.add_(1)
    torch.cuda.synchronize()
    answers.put("done")
    queue.get()  # until the parent has looked
    del tensor


def main():
    multiprocessing.set_start_method("spawn")
    queue, answers = multiprocessing.Queue(), multiprocessing.Queue()
    tensor = torch.ones(64 << 20, device="cuda")  # 256 MiB
    other = multiprocessing.Process(target=child, args=(queue, answers))
    other.start()
    queue.put(tensor)
    seen = answers.get(timeout=60)
    answers.get(timeout=60)
    after = float(tensor.sum().item())
    queue.put("enough")
    other.join(60)
    ok = seen == float(64 << 20) and after == 2.0 * (64 << 20) and other.exitcode == 0
    print(json.dumps({"ok": ok, "seen": seen, "after": after, "child": other.exitcode}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
