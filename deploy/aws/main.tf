# Parent instances of disks in Nitro Enclaves: one for each seat, spread over zones and racks.
#
# A disk is RAM. Whatever replaces or restarts an instance loses a disk, so nothing here does that by itself: no
# autoscaling group, and no change of template, AMI or user data touches an instance that runs. No key is anywhere: the
# enclave's image has the authority's public key, and instances have no login.

data "aws_subnet" "seat" {
  for_each = var.seats
  id       = each.value.subnet_id
}

locals {
  zones = { for name, subnet in data.aws_subnet.seat : name => subnet.availability_zone }
  crowd = max([for zone in distinct(values(local.zones)) : length([for one in values(local.zones) : one if one == zone])]...)
}

# Different racks within a zone (at most seven instances of a group in one zone).
resource "aws_placement_group" "disks" {
  name     = "${var.name}-disks"
  strategy = "spread"
}

resource "aws_launch_template" "disk" {
  name                    = "${var.name}-disk"
  image_id                = var.ami_id
  instance_type           = var.instance_type
  disable_api_stop        = true # a stopped parent is a lost disk
  disable_api_termination = true
  vpc_security_group_ids  = [aws_security_group.disk.id]

  enclave_options {
    enabled = true
  }

  iam_instance_profile {
    arn = aws_iam_instance_profile.disk.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required" # IMDSv2 alone
    http_put_response_hop_limit = 1
  }

  placement {
    group_name = aws_placement_group.disks.name
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = 16
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  user_data = base64encode(templatefile("${path.module}/user-data.sh.tftpl", {
    files   = var.files
    enclave = var.enclave
  }))
}

resource "aws_instance" "disk" {
  for_each   = var.seats
  subnet_id  = each.value.subnet_id
  private_ip = each.value.private_ip

  launch_template {
    id      = aws_launch_template.disk.id
    version = aws_launch_template.disk.latest_version
  }

  tags = {
    Name           = "${var.name}-disk-${each.key}"
    "perdure:seat" = each.key
  }

  lifecycle {
    # A plan that would replace or end a running disk fails. One is retired by hand, then `apply` makes another.
    prevent_destroy = true
    ignore_changes  = [launch_template, ami, instance_type, user_data, user_data_base64]

    precondition {
      condition     = local.crowd <= length(var.seats) - var.threshold
      error_message = "One zone has ${local.crowd} disks, more than the n - k that may be lost: losing it would end the array."
    }
  }
}
