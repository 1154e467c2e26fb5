"""Trains a classifier of handwritten digits on a machine that exists for this call only.

The machine is this computer, reached through a real OpenSSH server and owned by a real Pulumi stack. scikit-learn is
installed there, by the run itself; neither Dayfly nor this script needs it here.
"""

from __future__ import annotations

from dayfly import cluster


@cluster(provider="local", environment=["scikit-learn"], time="15m", job_name="digits")
def train(rounds: int) -> tuple[float, list[list[int]]]:
    """Trains on half of scikit-learn's bundled digits and tests on the other half."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import accuracy_score, confusion_matrix
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        images / 16.0, labels, test_size=0.5, random_state=0, stratify=labels
    )
    model = MLPClassifier((64,), learning_rate_init=0.01, random_state=0)
    for number in range(1, rounds + 1):
        model.partial_fit(seen, seen_labels, classes=range(10))
        print(
            f"round {number:2d}  loss {model.loss_:.3f}  on unseen images {model.score(unseen, unseen_labels):.3f}",
            flush=True,
        )
    found = model.predict(unseen)
    return float(accuracy_score(unseen_labels, found)), confusion_matrix(
        unseen_labels, found
    ).tolist()


if __name__ == "__main__":
    accuracy, matrix = train(12)
    print(
        f"\naccuracy {accuracy:.1%} on images that it had not seen; rows are digits, columns what they were taken for:"
    )
    for digit, row in enumerate(matrix):
        print(f"  {digit}  " + " ".join(f"{count:3d}" for count in row))
