#!/usr/bin/env bash
# Fill .carry/, which git ignores, with what gpu_check.py needs beside the tree: MNIST, a VGG16 whose weights are float16
# (half as large as in float32), and gpu_check.py itself. What is missing is left out, with a line.
#
#     bash benchmarks/gpu_prepare.sh [PYTHON]        a Python that has tinygan's requirements [default: python3]
#
# MNIST comes from $TINYGAN_DATA, ../shared/data or the cache of downloads; VGG16 from the file that $TINYGAN_VGG16 names,
# from ../shared/data/vgg16 or weights/vgg16.h5. A VGG16 that is in .carry already stays.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH=.
mkdir -p .carry/mnist
cp benchmarks/gpu_check.py .carry/

for folder in "${TINYGAN_DATA:-}" ../shared/data "$("$python" -c 'from tinygan.data import cache_dir; print(cache_dir())')"; do
    for mnist in "$folder" "$folder/mnist" "$folder/MNIST/raw"; do
        if [ -n "$folder" ] && [ -f "$mnist/train-images-idx3-ubyte.gz" ]; then
            cp -f "$mnist"/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz .carry/mnist/
            break 2
        fi
    done
done
[ -f .carry/mnist/train-images-idx3-ubyte.gz ] || {
    rmdir .carry/mnist
    echo "no MNIST on this machine: it will be downloaded there, or, without a network, tinygan's own 5,000 digits of it do"
}

for file in "${TINYGAN_VGG16:-}" ../shared/data/vgg16/*.h5 weights/vgg16.h5; do
    if [ -f "$file" ] && [ ! -f .carry/vgg16.h5 ]; then
        names=$(dirname "$file")/classes.txt
        set -- "$file"
        if [ -f "$names" ]; then set -- "$file" --classes "$names"; fi
        "$python" weights/convert_vgg16.py "$@" --dtype float16 --out .carry/vgg16.h5 |
            sed '/^next: /d' || true  # the reason is printed; the advice is for weights/
    fi
done
[ -f .carry/vgg16.h5 ] || echo "no VGG16: the GPAN will be trained with the classifier of digits"

du -sh .carry
echo "On the machine with the GPU, in this folder with .carry in it (ten minutes at most):"
echo "    python3 .carry/gpu_check.py --out OUT --carry .carry --seconds 545; tail -c 9000 OUT/results.md"
