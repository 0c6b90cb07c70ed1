# What an instance may do in AWS: read two objects.

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_partition" "current" {}

data "aws_iam_policy_document" "read" {
  statement {
    actions = ["s3:GetObject"]
    resources = [
      for key in [var.files.eif_key, var.files.bundle_key] :
      "arn:${data.aws_partition.current.partition}:s3:::${var.files.bucket}/${key}"
    ]
  }
}

resource "aws_iam_role" "disk" {
  name               = "${var.name}-disk"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy" "read" {
  name   = "read-the-disk-image"
  role   = aws_iam_role.disk.id
  policy = data.aws_iam_policy_document.read.json
}

resource "aws_iam_instance_profile" "disk" {
  name = "${var.name}-disk"
  role = aws_iam_role.disk.name
}
